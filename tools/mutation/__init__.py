"""Mutation testing: sampled faults, the tests that run a line, and runs of those in copies."""
