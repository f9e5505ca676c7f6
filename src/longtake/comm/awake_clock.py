"""Awake clock: seconds in which this process ran, but for those in which it was stopped."""

from __future__ import annotations

import time
from typing import Final, final

_MOST: Final = 2.0
"""Seconds between two ticks after which the process counts as stopped: some thread ticks far more
often."""


@final
class AwakeClock:
    """A clock that stands still while its process does (Ctrl-Z, ``scontrol suspend``).

    Who waits for others by it does not take them for gone when all of them were stopped and go on.
    """

    def __init__(self) -> None:
        self._ticked = time.monotonic()
        self._lost = 0.0

    def tick(self) -> float:
        """Say that the process runs. One thread calls it, every half second or so.

        Returns:
            Seconds for which it was stopped before.
        """
        now = time.monotonic()
        lost = max(0.0, now - self._ticked - _MOST)
        self._lost += lost
        self._ticked = now
        return lost

    def now(self) -> float:
        """Return the seconds since some moment."""
        return min(time.monotonic(), self._ticked + _MOST) - self._lost
