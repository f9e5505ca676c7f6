"""Exit statuses of the command: what scripts and schedulers go by (docs/resume.md)."""

from __future__ import annotations

import signal
from enum import IntEnum


class ExitStatus(IntEnum):
    """How a command ended."""

    DONE = 0
    """All is made that was asked for; or an endless video was ended with Ctrl-C."""
    FAILED = 1
    """A rank failed, or something unforeseen did."""
    MISTAKE = 2
    """The user can mend it: options, files, a disk that is full."""
    RESUMABLE = 75
    """SIGTERM, SIGHUP or SIGUSR1 left something unmade: started again with --resume it goes on."""
    INTERRUPTED = 130
    """Ctrl-C (SIGINT) left something unmade; it can be resumed as well."""

    @classmethod
    def after(cls, signal_number: int | None) -> ExitStatus:
        """Return the status of a run that a signal has cut short; ``None``: a script's stop."""
        if signal_number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            return cls.RESUMABLE
        return cls.INTERRUPTED
