"""Hostile input: made from a seed, run in forked children, and judged."""
