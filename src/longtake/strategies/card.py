"""Strategy card: what a strategy is for, for people who choose one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyCard:
    """A strategy in a table. Its options are those of its class, not said here.

    Args:
        splits: What of a run it divides over devices.
        purpose: When to choose it, in a sentence.
        video: What its videos have in common with the serial run's.
        paper: Where it is published; ``None``: ours, or a plug-in's.
    """

    splits: str
    purpose: str
    video: str
    paper: str | None = None
