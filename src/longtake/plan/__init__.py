"""Runs as data: actions, their check, their cost, the search for layouts."""
