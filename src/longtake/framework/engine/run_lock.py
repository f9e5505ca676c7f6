"""Lock of a run folder: one living run at a time, and a dead one is told apart."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final, final

from longtake.errors import OutputError

LOCK: Final = ".lock"
"""Name of the lock in a run folder."""


@final
class RunLock:
    """Holds a run folder for this process.

    The system frees the lock when its process ends, however it ends: a file that is left, and not
    locked, belonged to a run that has died.

    Args:
        folder: The run folder, which exists.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._descriptor: int | None = None

    @staticmethod
    def check(folder: Path) -> None:
        """Refuse a folder that a living run holds; writes nothing.

        Raises:
            OutputError: Names the run's process.
        """
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR)
        except OSError:
            return
        try:
            _take(descriptor, folder)
        finally:
            os.close(descriptor)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            OutputError: A living run holds it, or the disk refuses.
        """
        while self._descriptor is None:
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise OutputError(f"Cannot write {self._path}: {error.strerror}.") from error
            try:
                _take(descriptor, self._path.parent)
            except OutputError:
                os.close(descriptor)
                raise
            if _is_still(descriptor, self._path):
                self._descriptor = descriptor
            else:  # the one before has removed it meanwhile
                os.close(descriptor)
        said = json.dumps({"host": socket.gethostname(), "process": os.getpid()})
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, said.encode(), 0)

    def release(self) -> None:
        """Give the lock back and remove its file; nothing where it is not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        with suppress(OSError):
            if _is_still(descriptor, self._path):
                self._path.unlink()
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            f"--output {folder} belongs to a run that is going on{_who(descriptor)}; wait until it "
            f"has ended, or give another folder."
        ) from error


def _who(descriptor: int) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads(os.pread(descriptor, 4096, 0))
        return f" (process {said['process']} on {said['host']})"
    return ""


def _is_still(descriptor: int, path: Path) -> bool:
    """Whether a name is still that of an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
