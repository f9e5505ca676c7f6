"""Forked runs: the command in children of a server that has imported it: a second, not ten.

Each rank is a child, as torchrun would start it.
"""

from __future__ import annotations

import os
import resource
import secrets
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing import connection, get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Final, NoReturn
from unittest import mock

import psutil
import torch

from longtake.framework.engine.memory import RunMemory
from longtake.framework.main import main
from longtake.strategies import Communicator
from longtake.streams import heedless

PATIENCE: Final = 120.0
"""Seconds after which a run hangs."""
LOOK: Final = 0.05
"""Seconds after which it is looked how a run is doing."""
LISTENS: Final = "0A"
"""What the system calls a socket that waits for connections."""
BELOW_GIVEN: Final = range(10_000, 30_000)
"""Ports below those that systems give to whoever asks for any."""
GRACE: Final = 5.0
"""Seconds after which the others of a dead rank are killed, as torchrun's agent does it: they may
still wait for it to come."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls a run.

    Args:
        after: Seconds from its start: of the processor, and of the first rank's, so that it is the
            same moment on a busy machine.
        signal: What is sent.
        rank: To which rank; ``None``: to all.
        said: What the run must have said before.
        times: How often it is sent, one after another.
        deed: What is done in place of it.
        pause: After so many seconds those that it has stopped go on; ``None``: they do not.
    """

    after: float
    signal: signal.Signals = signal.SIGKILL
    rank: int | None = None
    said: str = ""
    times: int = 1
    deed: Callable[[], object] | None = None
    pause: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended.

    Args:
        statuses: Of each rank: an exit status, or minus the signal that killed it.
        said: What all ranks wrote to stderr.
        seconds: How long it took, by the clock of ``Fault.after``.
        struck: Whether the fault came before the end.
    """

    statuses: tuple[int, ...]
    said: str
    seconds: float
    struck: bool


def run_forked(
    args: Sequence[str],
    log: Path,
    ranks: int = 1,
    fault: Fault | None = None,
    ignored: Sequence[int] = (),
    patience: float = PATIENCE,
    largest: int | None = None,
    unheard: Sequence[int] = (),
    stall: float | None = None,
) -> Ended:
    """Run the command to its end in forked children.

    Args:
        args: Of the command.
        log: File for what it says; replaced.
        ranks: Number of ranks.
        fault: What befalls it.
        ignored: Signals that it is told to ignore, as ``nohup`` does.
        patience: Seconds after which it hangs.
        largest: Bytes that a file may have; more are refused, as on a full disk.
        unheard: Descriptors of streams whose reader has gone away: 1, 2.
        stall: Seconds without a sign of life after which a rank counts as stalled.

    Raises:
        AssertionError: It hangs, or leaves its port in use or a file among the temporary ones.
    """
    log.unlink(missing_ok=True)
    scratch = log.with_name(f"{log.name}-scratch")
    scratch.mkdir(exist_ok=True)
    context = _context()
    port, start, struck = _free_port(), time.monotonic(), False
    around = _Around(tuple(ignored), largest, tuple(unheard), stall)
    children = [
        context.Process(target=_be_rank, args=(list(args), str(log), rank, ranks, port, around))
        for rank in range(ranks)
    ]
    for child in children:
        child.start()
    bereft, busy = None, 0.0
    while alive := [child for child in children if child.exitcode is None]:
        until = LOOK if fault is None or struck else (fault.after - busy) / 2
        connection.wait([child.sentinel for child in alive], min(LOOK, max(0.002, until)))
        seconds, busy = time.monotonic() - start, max(busy, _busy(children[0].pid))
        if bereft is None and any(child.exitcode for child in children):
            bereft = seconds
        if bereft is not None and seconds > bereft + GRACE:
            for child in alive:
                child.kill()
        if fault is not None and not struck and busy > fault.after and fault.said in said(log):
            struck = True
            targets = children if fault.rank is None else [children[fault.rank]]
            _strike([child for child in targets if child.exitcode is None], fault)
        if seconds > patience:
            for child in alive:
                child.kill()
            raise AssertionError(f"{len(alive)} of {ranks} ranks hang: {said(log)}")
    statuses = tuple(child.exitcode or 0 for child in children)
    _check_left(port, scratch)
    return Ended(statuses, said(log), busy, struck)


def _busy(process: int | None) -> float:
    """Return the processor seconds of a process so far; 0 where it has ended."""
    try:
        times = psutil.Process(process).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _check_left(port: int, scratch: Path) -> None:
    """See that a run has left no socket that listens, and no temporary file."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state = line.split()[:4]
        listens = state == LISTENS and int(local.rpartition(":")[2], 16) == port
        assert not listens, f"something still listens at port {port}"
    left = sorted(path.name for path in scratch.rglob("*"))
    assert not left, f"temporary files are left: {left}"


def start_server() -> None:
    """Have the server import everything, so that no run's time counts that."""
    first = _context().Process(target=int)
    first.start()
    first.join()


def _context() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.forked"])
    return context


@dataclass(frozen=True)
class _Around:
    """What a process finds; see ``run_forked``."""

    ignored: tuple[int, ...]
    largest: int | None
    unheard: tuple[int, ...]
    stall: float | None

    def settle(self) -> None:
        """Have it so."""
        for number in self.ignored:
            signal.signal(number, signal.SIG_IGN)
        if self.largest is not None:
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.largest, most))
        for descriptor in self.unheard:
            reader, writer = os.pipe()
            os.close(reader)
            os.dup2(writer, descriptor)
            os.close(writer)

    def impatient(self) -> AbstractContextManager[object]:
        """Have ranks count as stalled after other than the usual seconds, where that is asked."""
        if self.stall is None:
            return nullcontext()
        connect = partial(Communicator.connect, stall=timedelta(seconds=self.stall))
        return mock.patch.object(Communicator, "connect", connect)


def _strike(children: Sequence[Any], fault: Fault) -> None:
    if fault.deed is not None:
        fault.deed()
        return
    for _ in range(fault.times):
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child.pid, fault.signal)
        time.sleep(0.05 * (fault.times > 1))
    if fault.pause is not None:
        time.sleep(fault.pause)
        for child in children:
            os.kill(child.pid, signal.SIGCONT)


def _be_rank(
    args: list[str], log: str, rank: int, ranks: int, port: int, around: _Around
) -> NoReturn:
    status = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ["TMPDIR"] = tempfile.tempdir = f"{log}-scratch"
        sys.stdout, sys.stderr = os.fdopen(1, "w"), heedless(os.fdopen(2, "w", closefd=False))
        for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(other, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        around.settle()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # SIGQUIT would dump hundreds of MB
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
        # A third of the time of such a short run, in which nothing is read or written.
        with mock.patch.object(RunMemory, "check"), around.impatient():
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


def said(log: Path) -> str:
    """Return what a run has said so far."""
    return log.read_text(errors="replace") if log.exists() else ""


def _free_port() -> int:
    """Return a free port of those that the system gives to nobody who does not ask for one.

    Any other may be taken by a process beside this one between the run's end and the look at what
    it has left.
    """
    while True:
        port = BELOW_GIVEN.start + secrets.randbelow(len(BELOW_GIVEN))
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
