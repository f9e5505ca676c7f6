"""Plan of an extension: of each video of a finished run where it grows on, or why it cannot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from longtake.errors import ConfigurationError
from longtake.framework.engine.checked_file import DamagedFile
from longtake.framework.engine.extension import PART, Extension, Extensions
from longtake.framework.engine.inputs import earlier_inputs
from longtake.framework.engine.journal import TAIL, Journal
from longtake.framework.engine.keeper import RunKeeper, finished_requests, left_by
from longtake.framework.engine.kept_video import KeptVideo
from longtake.framework.engine.longer import is_made_alike
from longtake.framework.engine.request import Request
from longtake.framework.engine.run_folder import RunFolder
from longtake.framework.engine.snapshot_files import SnapshotFiles
from longtake.framework.engine.workloads import Workloads


@final
class ExtensionPlan:
    """Looks at a finished run, and writes nothing.

    Args:
        folder: Of the run.
        workloads: Of the run as it is to be.
        kept: Says what stays of a request's file of so many video frames and of this checksum.
    """

    def __init__(
        self, folder: RunFolder, workloads: Workloads, kept: Callable[[Path, int, str], KeptVideo]
    ) -> None:
        self._folder = folder
        self._workloads = workloads
        self._kept = kept

    def of(self, requests: Sequence[Request], num_frames: int) -> Extensions:
        """Return how requests grow.

        Args:
            requests: For the whole videos, as they are to be.
            num_frames: The option ``data.num_frames``.

        Raises:
            ConfigurationError: There is nothing to grow, or no way to.
            OutputError: A file is not what the run has left.
        """
        before, earlier = self._lengths(), Extensions.read(self._folder)
        self._check(requests, before)
        grown = {} if earlier is None else dict(earlier.requests)
        for request in requests:
            if request.num_frames != before[request.index]:
                there = before[request.index]
                seams = grown[request.index].seams if request.index in grown else ()
                # One that was written down, and never came about, is no seam yet.
                seams = tuple(seam for seam in seams if seam < there)
                exact = not seams and self._goes_on(request, there)
                grown[request.index] = (
                    Extension(frames=there, to=request.num_frames or there, seams=())
                    if exact
                    else self._extension(request, there, seams)
                )
        return Extensions(num_frames=num_frames, requests=grown)

    def _lengths(self) -> dict[int, int]:
        """Return the video frames that there are, by request."""
        lengths: dict[int, int] = {}
        for one in earlier_inputs(self._folder)["requests"]:
            if one["num_frames"] is None:
                raise ConfigurationError(
                    f"--extend {self._folder.path}: the run is endless (data.num_frames null), so "
                    f"it is never finished; --resume {self._folder.path} goes on with it."
                )
            lengths[one["index"]] = one["num_frames"]
        return lengths

    def _check(self, requests: Sequence[Request], before: Mapping[int, int]) -> None:
        """Refuse a run that is not finished, and a length that is none."""
        path = self._folder.path
        if before.keys() != {request.index for request in requests}:
            raise ConfigurationError(
                f"--extend {path}: the run has {len(before)} prompts, and now there are "
                f"{len(requests)}."
            )
        made = [replace(one, num_frames=before[one.index]) for one in requests]
        left = any((self._folder.path_of(one.index) / PART).exists() for one in requests)
        if left or finished_requests(self._folder, made) != before.keys():
            raise ConfigurationError(
                f"--extend {path}: the run is not finished; --resume {path} goes on with it, and "
                f"then it can be extended."
            )
        longest = max(before.values())
        lengths = [(one.num_frames or 0, before[one.index]) for one in requests]
        if any(now < then for now, then in lengths) or all(now == then for now, then in lengths):
            more = longest + self._workloads.model.spec.compression.temporal
            raise ConfigurationError(
                f"--extend {path}: data.num_frames is {min(now for now, _ in lengths)}, and "
                f"{longest} video frames are there; the next longer video has {more}."
            )

    def _goes_on(self, request: Request, before: int) -> bool:
        """Whether a snapshot is there from which the longer video is made as if in one go."""
        shorter = replace(request, num_frames=before)
        files = SnapshotFiles(self._folder.path_of(request.index), "kept")
        for cut in reversed(files.cuts()):
            try:
                files.check(cut)
                drawn = files.load(cut).facts["queue"]["drawn"]
                if is_made_alike(self._workloads, shorter, request, cut, drawn):
                    forwards = self._workloads.of(request).forwards()
                    RunKeeper(self._folder).check_journal(request, forwards, cut)
                    return True
            except DamagedFile as error:
                sys.stderr.write(f"longtake: warning: {error}\n")
        return False

    def _extension(self, request: Request, before: int, seams: tuple[int, ...]) -> Extension:
        assert request.num_frames is not None
        own = self._folder.path_of(request.index)
        compression = self._workloads.model.spec.compression
        there = compression.latent_frames(before)
        added = compression.latent_frames(request.num_frames) - there
        seen = min(TAIL, there)
        journal = Journal(own)
        last = journal.blocks()[-1:]
        try:
            journal.tail(seen)
            complete = journal.frames(last[0]).stop == there
        except DamagedFile:
            complete = False
        if not complete:
            raise ConfigurationError(
                f"--extend {self._folder.path}: the run has kept no latents of the end of request "
                f"{request.index} (keep_latents tail or all does, none does not); give its video "
                f"as data.start of another run."
            )
        left = left_by(self._folder).get(request.index, {"checksum": ""})
        blocks = self._workloads.model.generation_config.scheduler.blocks(seen + added)
        known_blocks = sum(1 for frames in blocks if frames.stop <= seen)
        return Extension(
            frames=before,
            to=request.num_frames,
            seams=(*seams, before),
            known=compression.video_frames(seen),
            seen=seen,
            shift=there - seen,
            first_block=last[0] + 1 - known_blocks,
            kept=self._kept(own, before, left["checksum"]),
        )
