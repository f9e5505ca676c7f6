"""Real runs: the command as a user starts it, killed by the id of one of its processes."""

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
from tests.faults.forked import LOOK, Ended, Fault, said

PATIENCE: Final = 1200.0
"""Seconds after which a run hangs."""
PARTING: Final = 60.0
"""Seconds in which the other processes of a killed run must have ended."""


def run_real(args: Sequence[str], log: Path, ranks: int = 1, fault: Fault | None = None) -> Ended:
    """Run the command to its end; see ``run_forked``.

    Args:
        args: Of the command, which starts the processes of the other ranks itself.
        log: File for what it says; replaced.
        ranks: Number of ranks, which ``args`` say as well.
        fault: What befalls the first process, or the one of another rank once it is there; the
            others must end by themselves.

    Raises:
        AssertionError: It hangs, or leaves a process.
    """
    start, struck = time.monotonic(), False
    out = args[args.index("--output") + 1]
    with log.open("w") as file:
        process = subprocess.Popen([*COMMAND, *args], stdout=file, stderr=file, env=ENVIRONMENT)
        while process.poll() is None:
            time.sleep(LOOK)
            seconds = time.monotonic() - start
            if fault is not None and not struck and seconds > fault.after:
                struck = True
                _strike(process.pid, out, fault, ranks)
            if seconds > PATIENCE:
                process.kill()
                process.wait()
                raise AssertionError(f"the run hangs: {said(log)}")
    seconds = time.monotonic() - start
    until = time.monotonic() + PARTING
    while left := processes_of(out):
        if time.monotonic() > until:
            _kill(left, signal.SIGKILL)
            raise AssertionError(f"the run has left processes {left}: {said(log)}")
        time.sleep(0.05)
    return Ended((process.returncode,), said(log), seconds, struck)


def _strike(first: int, out: str, fault: Fault, ranks: int) -> None:
    """Strike a process: the others are its copies, started in the order of their ranks."""
    others = [number for number in processes_of(out) if number != first]
    if fault.rank and len(others) == ranks - 1:
        _kill([others[fault.rank - 1]], fault.signal)
    else:
        _kill([first], fault.signal)


def _kill(processes: Sequence[int], number: signal.Signals) -> None:
    for one in processes:
        with suppress(ProcessLookupError):
            os.kill(one, number)


def processes_of(word: str) -> list[int]:
    """Return the processes that live and have a word among their arguments, in ascending order."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if word.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return sorted(found)
