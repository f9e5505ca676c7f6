"""Forked runs: the command in children of a process that has imported it, a second instead of ten.

Each rank is a child, as torchrun would start it. Nothing here is multi-threaded before a fork.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import torch

from longtake.framework.cli import main

PATIENCE: Final = 300.0
"""Seconds after which a run hangs."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls a run.

    Args:
        after: Seconds from its start.
        signal: What is sent.
        rank: To which rank; ``None``: to all.
    """

    after: float
    signal: signal.Signals = signal.SIGKILL
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.

    Args:
        statuses: Of each rank: an exit status, or minus the signal that killed it.
        said: What all ranks wrote to stderr.
        seconds: How long it took.
        struck: Whether the fault came before the end.
    """

    statuses: tuple[int, ...]
    said: str
    seconds: float
    struck: bool


def run_forked(args: Sequence[str], log: Path, ranks: int = 1, fault: Fault | None = None) -> Ended:
    """Run the command to its end in forked children.

    Args:
        args: Of the command.
        log: File for what it says; replaced.
        ranks: Number of ranks.
        fault: What befalls it.

    Raises:
        AssertionError: It hangs.
    """
    log.unlink(missing_ok=True)
    port = _free_port()
    children = [_fork(list(args), log, rank, ranks, port) for rank in range(ranks)]
    start = time.monotonic()
    statuses: dict[int, int] = {}
    struck = False
    while len(statuses) < ranks:
        for rank, child in enumerate(children):
            if rank not in statuses:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    statuses[rank] = os.waitstatus_to_exitcode(status)
        if fault is not None and not struck and time.monotonic() - start > fault.after:
            struck = True
            for rank, child in enumerate(children):
                if rank not in statuses and fault.rank in (None, rank):
                    os.kill(child, fault.signal)
        if time.monotonic() - start > PATIENCE:
            for rank, child in enumerate(children):
                if rank not in statuses:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
            raise AssertionError(f"ranks {set(range(ranks)) - set(statuses)} hang: {_said(log)}")
        time.sleep(0.002)
    seconds = time.monotonic() - start
    return Ended(tuple(statuses[rank] for rank in range(ranks)), _said(log), seconds, struck)


def _fork(args: list[str], log: Path, rank: int, ranks: int, port: int) -> int:
    child = os.fork()
    if child == 0:
        _be_rank(args, log, rank, ranks, port)
    return child


def _be_rank(args: list[str], log: Path, rank: int, ranks: int, port: int) -> NoReturn:
    status = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)
        if ranks > 1:
            os.environ.update(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(ranks),
                LOCAL_WORLD_SIZE=str(ranks),
                GROUP_RANK="0",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
                TORCHELASTIC_RUN_ID="faults",
            )
        sys.argv = ["longtake", *args]
        main(args)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _said(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
