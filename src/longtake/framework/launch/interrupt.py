"""Interrupts: signals as a request to finish cleanly.

Only Ctrl-C is taken as more urgent when it comes again: schedulers send SIGTERM more than once by
themselves, and SIGKILL when their patience is over.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Those that end a run: of terminals, schedulers, closed terminals, and SLURM's ``--signal``."""

_STDERR: Final = 2
_SAID: Final = b"longtake: ending after the current task; Ctrl-C to end at once\n"


@final
class StopFlag:
    """Set once by one of ``SIGNALS``; the engine asks after every event."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.signal: int | None = None
        """The signal that has set it, if one has."""

    def is_set(self) -> bool:
        """Return whether the run should end."""
        return self._event.is_set()

    def set(self, number: int | None = None) -> None:
        """Ask the run to end.

        Args:
            number: The signal that asks.
        """
        self.signal = number
        self._event.set()

    def clear(self) -> None:
        """Forget that the run was asked to end."""
        self.signal = None
        self._event.clear()


class Interrupted(KeyboardInterrupt):
    """A second Ctrl-C, or a signal while the ranks meet: the run ends at once.

    Args:
        signal: Which one.
    """

    def __init__(self, signal: int | None) -> None:
        super().__init__()
        self.signal = signal


@contextmanager
def stop_on_interrupt(flag: StopFlag, *, silent: bool = False) -> Iterator[None]:
    """Turn the first of ``SIGNALS`` into ``flag``; a Ctrl-C after it interrupts at once.

    A run that was told to ignore SIGHUP (``nohup``) goes on ignoring it. A signal that has ended
    the run, and for which the script has no handler of its own, is ignored from then on. Outside
    the main thread signals cannot be handled, and are left alone.

    Args:
        flag: What is set.
        silent: Whether nothing is printed: one rank speaks for all, and the others, whom Ctrl-C
            reaches as well, end when it does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.is_set():
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        flag.set(number)
        if not silent:
            # Past sys.stderr, which may be in the midst of a line, and is not entered again.
            with suppress(OSError):  # the terminal may be what has gone
                os.write(_STDERR, _SAID)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            # A scheduler's next SIGTERM must not kill the process while it leaves with its status.
            repeated = number == flag.signal and handler is signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if repeated else handler)
