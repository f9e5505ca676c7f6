"""Decoding in tiles, in space and in time."""
