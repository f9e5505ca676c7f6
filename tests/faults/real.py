"""Real runs: the command as a user starts it, killed by the id of its process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.cli.command import COMMAND, ENVIRONMENT
from tests.faults.forked import Ended, Fault, said

PATIENCE: Final = 1200.0
"""Seconds after which a run hangs."""
PARTING: Final = 60.0
"""Seconds in which processes of a run whose first one was killed must have ended."""


def run_real(args: Sequence[str], log: Path, ranks: int = 1, fault: Fault | None = None) -> Ended:
    """Run the command to its end; see ``run_forked``.

    Args:
        args: Of the command, which starts the processes of the other ranks itself.
        log: File for what it says; replaced.
        ranks: Number of ranks, which ``args`` say as well.
        fault: What befalls its first process; the others must end by themselves.

    Raises:
        AssertionError: It hangs, or leaves a process.
    """
    del ranks
    start, struck = time.monotonic(), False
    out = args[args.index("--output") + 1]
    with log.open("w") as file:
        process = subprocess.Popen([*COMMAND, *args], stdout=file, stderr=file, env=ENVIRONMENT)
        while process.poll() is None:
            time.sleep(0.01)
            seconds = time.monotonic() - start
            if fault is not None and not struck and seconds > fault.after:
                struck = True
                process.send_signal(fault.signal)
            if seconds > PATIENCE:
                process.kill()
                process.wait()
                raise AssertionError(f"the run hangs: {said(log)}")
    seconds = time.monotonic() - start
    until = time.monotonic() + PARTING
    while left := processes_of(out):
        if time.monotonic() > until:
            for number in left:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            raise AssertionError(f"the run has left processes {left}: {said(log)}")
        time.sleep(0.05)
    return Ended((process.returncode,), said(log), seconds, struck)


def processes_of(word: str) -> list[int]:
    """Return the processes that live and have a word among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if word.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
