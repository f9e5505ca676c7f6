"""Sequence parallelism at the attention seam: who holds which tokens and heads, and when."""

from longtake.strategies.exchange.groups import Group, in_groups, split
from longtake.strategies.exchange.ring import RingKernel
from longtake.strategies.exchange.sequence import TokenShare
from longtake.strategies.exchange.shares import lined_up, overlap, shares
from longtake.strategies.exchange.ulysses import Ulysses

__all__ = [
    "Group",
    "RingKernel",
    "TokenShare",
    "Ulysses",
    "in_groups",
    "lined_up",
    "overlap",
    "shares",
    "split",
]
