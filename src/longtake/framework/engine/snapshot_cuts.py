"""Cuts for snapshots: where the output rank says so, saved in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.comm.communicator import Communicator
from longtake.errors import LongtakeError
from longtake.framework.engine.interval import Interval
from longtake.framework.engine.journal import Journal
from longtake.framework.engine.snapshot_files import SnapshotFiles
from longtake.strategies.runtime.cuts import Cuts, CutState
from longtake.task import Task

_NEVER: Final = 1 << 62
"""A task that no video has."""


@final
class SnapshotCuts(Cuts):
    """Cuts a request at iteration edges, where ranks hold least, and saves what they hold.

    The output rank measures, decides and announces; the others hear it. Each rank writes its own
    file in a thread while it goes on; a rank that is cut again before it has written waits.

    Args:
        communicator: The ranks of the run.
        ranks: How many of them hold something.
        files: Of the request.
        journal: Of the request; on the output rank, elsewhere ``None``.
        interval: Between snapshots.
        first: The first task to be done.
        warn: Gets a sentence on a snapshot that could not be saved.
        kept: The task before which the request is cut in any case, and where what is held there
            stays; the same on all ranks.
    """

    def __init__(
        self,
        communicator: Communicator,
        ranks: int,
        files: SnapshotFiles,
        journal: Journal | None,
        interval: Interval,
        first: int,
        warn: Callable[[str], None],
        kept: tuple[int, SnapshotFiles] | None = None,
    ) -> None:
        self._communicator = communicator
        self._kept = kept
        self._ranks = ranks
        self._files = files
        self._journal = journal
        self._interval = interval
        self._warn = warn
        self._begun = 0
        self._done = first
        self._target: int | None = None
        self._saved = first
        self._tasks = 0
        self._since = time.perf_counter()
        self._taking = self._writing = self._busy = 0.0
        self._shares_cores = True
        self._thread: threading.Thread | None = None

    @override
    def begin(self) -> None:
        number, self._begun = self._begun, self._begun + 1
        if self._journal is None:
            self._target = self._communicator.announced_cut(number)
            return
        task = (time.perf_counter() - self._since) / self._tasks if self._tasks else None
        # A CPU that makes the video has no other cores to write with.
        cost = self._taking + self._busy * self._shares_cores
        ahead = self._interval.tasks(task, cost, self._writing)
        self._target = _NEVER if ahead is None else self._done + ahead
        if self._kept is not None and self._done < self._kept[0]:
            self._target = min(self._target, self._kept[0])
        self._tasks, self._since = 0, time.perf_counter()
        self._communicator.announce_cut(number, self._target)

    @override
    def falls_between(self, before: Task, after: Task) -> bool:
        self._done, self._tasks = before.index + 1, self._tasks + 1
        if self._target is None or before.iteration == after.iteration:
            return False
        return after.index >= self._target

    @override
    def take(self, state: CutState) -> None:
        start = time.perf_counter()
        self.flush()
        if state.index == self._saved and not state.late:
            return
        self._saved = state.index
        if self._journal is not None:
            for block in state.late:
                self._journal.append(block.block, block.frames, block.latents)
        self._shares_cores = all(one.device.type == "cpu" for one in state.tensors.values())
        copied = replace(state, tensors={n: _copy(t) for n, t in state.tensors.items()}, late=())
        self._thread = threading.Thread(
            target=self._write, args=(copied,), name="longtake-snapshot", daemon=True
        )
        self._thread.start()
        self._since = time.perf_counter()
        self._taking = self._since - start

    def flush(self) -> None:
        """Wait until what was taken is on the disk."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, state: CutState) -> None:
        start, busy = time.perf_counter(), time.thread_time()
        try:
            self._files.save(state, self._communicator.rank, self._ranks)
            if self._kept is not None and state.index == self._kept[0]:
                self._files.link(state.index, self._communicator.rank, self._kept[1])
            if self._journal is not None:
                self._files.prune()
        except LongtakeError as error:
            # The video does not need it; should the run die, it goes on from an earlier one.
            self._warn(f"no snapshot of task {state.index}: {error}")
        self._writing, self._busy = time.perf_counter() - start, time.thread_time() - busy


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
