"""Silence: a store that does not answer, noticed beside the thread that waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Self, final

from longtake.comm.awake_clock import AwakeClock

_LOOK: Final = 0.2
"""Seconds between two looks."""


@final
class Silence:
    """Calls something when a thread that asks again and again gets no answer any more.

    Args:
        seconds: After so many without one.
        abandon: What is called, once, from another thread.
    """

    def __init__(self, seconds: float, abandon: Callable[[], None]) -> None:
        self._seconds = seconds
        self._abandon = abandon
        self._clock = AwakeClock()
        self._heard = self._clock.now()
        self._over = threading.Event()

    def broken(self) -> None:
        """Say that there was an answer."""
        self._heard = self._clock.now()

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="longtake-silence", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK):
            self._clock.tick()
            if self._clock.now() - self._heard > self._seconds:
                self._abandon()
                return
