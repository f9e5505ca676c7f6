"""Sequence parallelism at the attention seam: who holds which tokens and heads, and when."""

from longtake.strategies.exchange.ring import RingKernel
from longtake.strategies.exchange.sequence import TokenShare
from longtake.strategies.exchange.shares import overlap, shares
from longtake.strategies.exchange.ulysses import Ulysses

__all__ = ["RingKernel", "TokenShare", "Ulysses", "overlap", "shares"]
