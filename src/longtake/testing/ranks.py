"""Rank pool: processes for tests, started once and kept for all of them."""

from __future__ import annotations

import faulthandler
import io
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from multiprocessing import connection, get_context
from typing import Any, Final, TypeVar, final

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from typing_extensions import override

from longtake.comm.gloo import GlooTransport
from longtake.comm.p2p import Channel
from longtake.comm.rank_group import RankGroup
from longtake.comm.transport import Transport
from longtake.plan.ir.actions import CHANNELS
from longtake.strategies import Communicator

T = TypeVar("T")

_GRACE: Final = 1.0
"""Seconds that the other ranks have to answer when one has failed: they often wait for it."""
_STALL: Final = timedelta(seconds=30)
"""On a busy machine a healthy rank may be silent for long."""
_IMPORTED: Final = ["longtake.testing.tiny.base", "longtake.framework.main"]
"""What the server of ranks imports, of which a process has but one: tests that fork runs of the
command find the same."""


@cache
def rank_pool(world_size: int) -> RankPool:
    """Return the pool of ``world_size`` ranks that all tests of this process share."""
    return RankPool(world_size)


@final
class RankPool:
    """Processes joined by gloo that run one function after another.

    Each has as many threads as the process that started it, so that it sums in the same order.

    They start with the first ``run`` and end with the process that made them. Whatever fails
    ends them too, so that a test never meets the remains of another; the next ``run`` starts
    new ones.

    Args:
        world_size: Number of ranks.
        timeout: Seconds after which a rank that has not answered counts as hanging.
    """

    def __init__(self, world_size: int, timeout: float = 60.0) -> None:
        self.world_size = world_size
        self._timeout = timeout
        self._ranks: list[_Rank] = []
        self._store: Any = None

    def run(self, function: Callable[..., T], *args: object) -> list[T]:
        """Run ``function(communicator, *args)`` on every rank and return the results in order of
        rank.

        Function, arguments and results go through ``torch.save``. So the function must be one of a
        module that the ranks can import, and so must the classes of the arguments.

        Raises:
            AssertionError: A rank failed, died or hangs; says which, with its traceback.
        """
        workload = _pack((function, args))
        if not self._ranks:
            self._start()
        for rank in self._ranks:
            with suppress(BrokenPipeError):  # it is found dead when its answer is awaited
                rank.pipe.send_bytes(workload)
        return self._answers()

    def close(self) -> None:
        """End the processes, also stopped ones."""
        for rank in self._ranks:
            rank.process.kill()
        for rank in self._ranks:
            rank.process.join()
            rank.pipe.close()
            rank.stacks.close()
        self._ranks, self._store = [], None

    def _start(self) -> None:
        context = get_context("forkserver")
        # Imported once and forked: a rank starts in milliseconds instead of seconds.
        context.set_forkserver_preload(_IMPORTED)
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        threads = torch.get_num_threads()
        for rank in range(self.world_size):
            pipe, its_pipe = context.Pipe()
            stacks, its_stacks = context.Pipe(duplex=False)
            where = (rank, self.world_size, self._store.port, self._timeout, threads)
            process = context.Process(
                target=_serve, args=(*where, its_pipe, its_stacks), daemon=True
            )
            process.start()
            its_pipe.close()  # so that a dead rank is an end of file here
            its_stacks.close()
            self._ranks.append(_Rank(process, pipe, stacks))

    def _answers(self) -> list[Any]:
        """Wait for one answer of every rank."""
        waiting = {rank.pipe: index for index, rank in enumerate(self._ranks)}
        answers: dict[int, Any] = {}
        failures: dict[int, str] = {}
        deadline = time.monotonic() + self._timeout
        while waiting and (left := deadline - time.monotonic()) > 0:
            for pipe in connection.wait(list(waiting), left):
                assert isinstance(pipe, connection.Connection)
                index = waiting.pop(pipe)
                well, answer = self._ranks[index].answer()
                (answers if well else failures)[index] = answer
                if not well:
                    deadline = min(deadline, time.monotonic() + _GRACE)
        failures |= {index: self._ranks[index].hang() for index in waiting.values()}
        if failures:
            self.close()
            raise AssertionError("\n".join(f"rank {i} {text}" for i, text in failures.items()))
        return [answers[index] for index in range(self.world_size)]


@final
class _Rank:
    """A rank as the test sees it."""

    def __init__(
        self, process: Any, pipe: connection.Connection, stacks: connection.Connection
    ) -> None:
        self.process = process
        self.pipe = pipe
        self.stacks = stacks

    def answer(self) -> tuple[bool, Any]:
        """Return whether it went well, and the result or what went wrong."""
        try:
            well, answer = _unpack(self.pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            self.process.join()
            return False, f"died with exit code {self.process.exitcode}"
        return well, answer if well else f"failed:\n{answer}"

    def hang(self) -> str:
        """Say where it hangs."""
        os.kill(self.process.pid, signal.SIGUSR1)
        time.sleep(0.2)  # for all of its threads
        text = (
            os.read(self.stacks.fileno(), 1 << 16).decode()
            if self.stacks.poll()
            else "It is stopped."
        )
        return f"has not answered:\n{text}"


def _serve(
    rank: int,
    world_size: int,
    port: int,
    timeout: float,
    threads: int,
    pipe: connection.Connection,
    stacks: connection.Connection,
) -> None:
    """Be a rank until the test process closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test process alone
    torch.set_num_threads(threads)
    faulthandler.register(signal.SIGUSR1, stacks.fileno())
    communicator: Communicator | None = None
    transport = _KeptGroups()
    while True:
        try:
            workload = pipe.recv_bytes()
        except EOFError:
            return
        try:
            if communicator is None:
                communicator = _connect(rank, world_size, port, timeout, transport)
            function, args = _unpack(workload)
            reply = _pack((True, function(communicator, *args)))
            transport.release_others()
        except BaseException:
            reply = _pack((False, traceback.format_exc()))
        pipe.send_bytes(reply)


@final
class _KeptGroups(Transport):
    """Gloo, which knows its process groups from those that a function makes for itself.

    Those are destroyed when it has ended. Each has threads that look for messages all the time:
    hundreds of them take the cores.
    """

    name = "gloo"

    def __init__(self) -> None:
        self._gloo = GlooTransport()
        self._kept: set[dist.ProcessGroup] = set()

    @override
    def channel(self) -> Channel:
        return self._gloo.channel()

    @override
    def group(self, ranks: Sequence[int]) -> RankGroup | None:
        before = _process_groups()
        made = self._gloo.group(ranks)
        self._kept |= _process_groups() - before
        return made

    @override
    def abort(self) -> None:
        self._gloo.abort()

    def keep_all(self) -> None:
        """Keep all process groups that there are."""
        self._kept |= _process_groups()

    def release_others(self) -> None:
        """Destroy the process groups that are not kept. Every rank calls it."""
        for group in _process_groups() - self._kept:
            dist.destroy_process_group(group)


def _process_groups() -> set[dist.ProcessGroup]:
    return set(dist.distributed_c10d._world.pg_map)


def _connect(
    rank: int, world_size: int, port: int, timeout: float, transport: _KeptGroups
) -> Communicator:
    store = TCPStore("127.0.0.1", port, is_master=False)
    limit = timedelta(seconds=timeout)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=limit)
    made = Communicator.connect(torch.device("cpu"), CHANNELS, _STALL, transport=lambda: transport)
    transport.keep_all()
    return made


# Not by the pipe's own way, which hands tensors over in shared memory of a rank that may die.
def _pack(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpack(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)
