"""Faults: runs that are killed, stopped and damaged, and go on to the same bytes."""
