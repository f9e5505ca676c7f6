"""Shares of tokens and heads among ranks: uneven where they must be, never padded."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate, pairwise


def shares(total: int, parts: int) -> list[range]:
    """Divide ``0 .. total - 1`` into consecutive parts that differ by at most one.

    Args:
        total: Number of tokens or heads.
        parts: Number of ranks. With fewer tokens than ranks, some parts are empty.
    """
    base, rest = divmod(total, parts)
    return lined_up(base + (part < rest) for part in range(parts))


def lined_up(counts: Iterable[int], first: int = 0) -> list[range]:
    """Return ranges of these lengths, one behind the other, beginning at ``first``."""
    return [range(*ends) for ends in pairwise(accumulate(counts, initial=first))]


def overlap(span: range, other: range) -> range:
    """Return what two consecutive ranges have in common; empty at ``span``'s start if nothing."""
    start, stop = max(span.start, other.start), min(span.stop, other.stop)
    return range(start, stop) if start < stop else range(span.start, span.start)
