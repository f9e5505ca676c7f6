"""Interval between snapshots: as often as costs little, by what they are measured to cost."""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias, final

SnapshotSeconds: TypeAlias = float | Literal["auto", "never"]
"""Seconds between snapshots."""
SHARE: Final = 0.01
"""Of the run time, for snapshots."""
SHORTEST: Final = 10.0
"""Seconds between snapshots at least, where nothing is said."""
_WRITING: Final = 20
"""Writing one takes at most one of so many parts of the time between two."""


@final
class Interval:
    """Says after how many tasks a request is cut next.

    Args:
        seconds: Between snapshots; ``auto``: so many that they take a hundredth of the time.
        stages: Pipeline stages, which run empty at a cut and fill again after it.
    """

    def __init__(self, seconds: SnapshotSeconds, stages: int) -> None:
        self._seconds = seconds
        self._stages = stages

    def tasks(self, task: float | None, taking: float, writing: float) -> int | None:
        """Return after how many tasks, at least 1; ``None``: not at all.

        Args:
            task: Seconds from one task to the next; ``None``: not known yet, so that one task is
                enough to find out.
            taking: Seconds that the last one has cost the run: what was held was copied, and on a
                CPU it was written as well.
            writing: Seconds in which it was written the last time.
        """
        if self._seconds == "never":
            return None
        if task is None or task <= 0:
            return 1
        if self._seconds == "auto":
            idle = (self._stages - 1) * task
            seconds = max(SHORTEST, (idle + taking) / SHARE, writing * _WRITING)
        else:
            seconds = self._seconds
        return max(1, math.ceil(seconds / task))
