"""Keeper of a run: what it saves so that it can go on, and where it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import takewhile
from typing import Any, Final, Literal, TypeAlias, final

from torch import Tensor

from longtake.caches import Forward
from longtake.comm.communicator import Communicator
from longtake.framework.engine.checked_file import DamagedFile
from longtake.framework.engine.extension import PART, Extension, saved_in
from longtake.framework.engine.interval import Interval, SnapshotSeconds
from longtake.framework.engine.journal import Journal, KeepLatents
from longtake.framework.engine.kept_video import became_of
from longtake.framework.engine.longer import edge_of_longer
from longtake.framework.engine.replica_reports import whole_report
from longtake.framework.engine.request import Request
from longtake.framework.engine.run_folder import RunFolder
from longtake.framework.engine.shared_folder import check_shared
from longtake.framework.engine.snapshot_cuts import SnapshotCuts
from longtake.framework.engine.snapshot_files import FOLDERS, SnapshotFiles
from longtake.framework.engine.workloads import Workloads
from longtake.plan.layout import Layout
from longtake.strategies.runtime.cuts import CutState
from longtake.task import Run, Task

KeepSnapshots: TypeAlias = Literal["none", "extend"]
"""Which snapshots stay when a request is finished: ``extend``, the one from which on a longer video
can be made bit by bit as if it had been asked for at once."""


_BEFORE: Final = "The run goes on from what was saved before."


def _warn(sentence: str) -> None:
    sys.stderr.write(f"longtake: warning: {sentence}\n")


@final
class RunKeeper:
    """Looks after journals and snapshots in a run folder that all ranks see.

    Args:
        folder: Of the run.
        seconds: Between snapshots.
        resumes: Whether the run may have been begun before; the same on all ranks.
        extensions: How requests grow, or have grown, by index.
        keep_snapshots: Which snapshots stay when a request is finished.
        warn: Gets a sentence on what is damaged, or could not be saved.
    """

    def __init__(
        self,
        folder: RunFolder,
        seconds: SnapshotSeconds = "auto",
        *,
        resumes: bool = False,
        extensions: Mapping[int, Extension] | None = None,
        keep_snapshots: KeepSnapshots = "none",
        warn: Callable[[str], None] = _warn,
    ) -> None:
        self.resumes = resumes
        self._keep_snapshots = keep_snapshots
        self._extensions = extensions or {}
        self._folder = folder
        self._seconds = seconds
        self._warn = warn

    def check_seen(self, communicator: Communicator, *, sees: bool) -> None:
        """Refuse a run folder that a rank which is to write into it does not see. Collective.

        Args:
            communicator: The ranks of the run.
            sees: Whether this rank is to.

        Raises:
            ConfigurationError: On rank 0; names the others.
        """
        check_shared(self._folder.path, communicator, sees=sees)

    def made(self, requests: Iterable[Request]) -> set[int]:
        """Return which requests were finished before, according to the run's report."""
        if not self.resumes:
            return set()
        return finished_requests(self._folder, requests)

    def tidy(self, requests: Iterable[Request], keep: KeepLatents) -> None:
        """Remove what requests that are finished need no more, should a process have died at it.

        Args:
            requests: Of the run.
            keep: Which blocks' latents stay.
        """
        requests = list(requests)
        made = self.made(requests)
        for request in requests:
            if request.index in made:
                self.finish(request, keep)

    def finish(self, request: Request, keep: KeepLatents) -> None:
        """Remove what a request that is finished, and reported as such, needs no more.

        What a part by which it has grown has made joins its journal.

        Args:
            request: Which one.
            keep: Which blocks' latents stay.

        Raises:
            OutputError: The disk refuses.
        """
        own = self._folder.path_of(request.index)
        SnapshotFiles(own).clear()
        kept = SnapshotFiles(own, "kept")
        kept.prune(1) if self._keep_snapshots == "extend" else kept.clear()
        journal, extension = Journal(own), self._extensions.get(request.index)
        part = own / PART
        if extension is not None and not extension.is_exact:
            kept.clear()  # of a video that ends where this one goes on otherwise
        if extension is not None and part.is_dir():
            for name in FOLDERS:
                SnapshotFiles(part, name).clear()
            journal.join(
                Journal(part),
                first_block=extension.first_block,
                seen=extension.seen,
                shift=extension.shift,
            )
            with suppress(OSError):  # something of somebody else's is in it
                part.rmdir()
        journal.finish(keep)

    def point(self, request: Request, forwards: Callable[[], Iterator[Forward]]) -> int:
        """Return the task from which on a request goes on: 0 for one that begins.

        That of the last snapshot that is whole, and whose finished blocks are in the journal,
        whole as well. What was saved after it is removed.

        Args:
            request: Which one.
            forwards: Gives its schedule anew.
        """
        files, kept = self._files(request), self._kept(request)
        for error in files.torn():
            self._warn(f"{error} {_BEFORE}")
        for where, cut in [*((files, cut) for cut in reversed(files.cuts())), *_last(kept)]:
            try:
                where.check(cut)
                self.check_journal(request, forwards(), cut)
            except DamagedFile as error:
                self._warn(f"{error} {_BEFORE}")
                continue
            files.forget_after(cut)
            before = finished_before(forwards(), cut)
            self._journal(request).forget_others({run.block for _, run in before})
            return cut
        files.clear()
        self._journal(request).forget_others(set())
        return 0

    def check_journal(self, request: Request, forwards: Iterable[Forward], cut: int) -> None:
        """Read the latents of all blocks that are finished before a cut.

        Raises:
            DamagedFile: They are not what was written.
        """
        for _, run in finished_before(forwards, cut):
            self._journal(request).read(run.block, run.block_frames)

    def state(self, request: Request, cut: int) -> CutState:
        """Return what all ranks held of a request at a cut.

        Raises:
            DamagedFile: It is not there: this machine does not see the run folder.
        """
        files = self._files(request)
        return (files if cut in files.cuts() else self._kept(request)).load(cut)

    def latents(self, request: Request, run: Run) -> Tensor:
        """Return a finished block's latents, ``(1, C, F, H, W)`` on the CPU.

        Raises:
            DamagedFile: They are not what was written.
        """
        return self._journal(request).read(run.block, run.block_frames)

    def cuts(
        self,
        request: Request,
        communicator: Communicator,
        layout: Layout,
        first: int,
        workloads: Workloads,
    ) -> SnapshotCuts:
        """Return where a request is cut, and what saves it there.

        Args:
            request: Which one.
            communicator: The ranks of the run.
            layout: Says which of them hold something.
            first: The first task to be done.
            workloads: Of the run.
        """
        kept: tuple[int, SnapshotFiles] | None = None
        if self._keep_snapshots == "extend" and request.num_frames is not None:
            edge = edge_of_longer(workloads, request)
            kept = (edge, self._kept(request)) if edge else None
        is_output = communicator.rank == layout.output_rank
        if kept is not None and first and is_output:
            self._keep_again(request, *kept)
        return SnapshotCuts(
            communicator,
            layout.mesh.size,
            self._files(request),
            self._journal(request) if is_output else None,
            Interval(self._seconds, layout.mesh.pipe),
            first,
            self._warn,
            kept,
        )

    def _keep_again(self, request: Request, edge: int, kept: SnapshotFiles) -> None:
        """Have the snapshot stay from which a longer video is made, should a process have died at
        that.
        """
        files = self._files(request)
        if edge not in kept.cuts() and edge in files.cuts():
            files.link_all(edge, kept)

    def _files(self, request: Request) -> SnapshotFiles:
        return SnapshotFiles(saved_in(self._folder, request))

    def _kept(self, request: Request) -> SnapshotFiles:
        return SnapshotFiles(saved_in(self._folder, request), "kept")

    def _journal(self, request: Request) -> Journal:
        return Journal(saved_in(self._folder, request))


def _last(files: SnapshotFiles) -> Iterator[tuple[SnapshotFiles, int]]:
    """Yield snapshots that stay, the last one first."""
    for cut in reversed(files.cuts()):
        yield files, cut


def finished_before(forwards: Iterable[Forward], cut: int) -> Iterator[tuple[Task, Run]]:
    """Yield the blocks of the video that are finished before a cut, each with its last task."""
    for forward in takewhile(lambda one: one.task.index < cut, forwards):
        for run in forward.task.finished:
            yield forward.task, run


def finished_requests(folder: RunFolder, requests: Iterable[Request]) -> set[int]:
    """Return which requests a run's report calls finished, as long as they are to be now."""
    frames = {request.index: request.whole_frames for request in requests}
    return {
        one["index"]
        for one in whole_report(folder).get("requests", ())
        if one.get("exit_reason") == "finished"
        and one["index"] in frames
        and one.get("frames_asked_for") == frames[one["index"]]
    }


def left_by(folder: RunFolder) -> dict[int, Mapping[str, Any]]:
    """Return what a run's report says of the videos that it has left, by request."""
    said = whole_report(folder).get("requests", ())
    return {one["index"]: one["left"] for one in said if one.get("left")}


def touched_since(folder: RunFolder, requests: Iterable[int]) -> dict[int, str]:
    """Return what somebody has done to videos of finished requests, in sentences.

    Args:
        folder: Of the run.
        requests: Indices of those that its report calls finished.
    """
    found, left = {}, left_by(folder)
    for index in sorted(left.keys() & set(requests)):
        own = folder.path_of(index)
        how = became_of(own, left[index])
        if how is not None:
            found[index] = f"{own / left[index]['name']} was {how} since the run has finished it"
    return found
