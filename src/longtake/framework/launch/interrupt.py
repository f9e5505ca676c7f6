"""Interrupts: Ctrl-C as a request to finish cleanly."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import final


@final
class StopFlag:
    """Set once by Ctrl-C (SIGINT) or SIGTERM; the engine asks after every event."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def is_set(self) -> bool:
        """Return whether the run should end."""
        return self._event.is_set()

    def set(self) -> None:
        """Ask the run to end."""
        self._event.set()

    def clear(self) -> None:
        """Forget that the run was asked to end."""
        self._event.clear()


@contextmanager
def stop_on_interrupt(flag: StopFlag, *, silent: bool = False) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into ``flag``; a second one interrupts at once.

    Outside the main thread signals cannot be handled, and are left alone.

    Args:
        flag: What is set.
        silent: Whether nothing is printed: one rank speaks for all, and the others, whom Ctrl-C
            reaches as well, end when it does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()
        if not silent:
            sys.stderr.write("longtake: ending after the current task; once more to end at once\n")
            sys.stderr.flush()

    for number in signals:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
