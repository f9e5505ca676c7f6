"""Extension on the command line: what of a finished run grows, and when that is settled."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from longtake.framework.console.resume import check_unchanged, length_of
from longtake.framework.engine.extension import Extension, Extensions
from longtake.framework.engine.extension_plan import ExtensionPlan
from longtake.framework.engine.inputs import check_inputs
from longtake.framework.engine.keeper import finished_requests
from longtake.framework.engine.kept_video import KeptVideo
from longtake.framework.engine.request import Request
from longtake.framework.engine.run_folder import CONFIG, INPUTS, RunFolder
from longtake.framework.engine.workloads import Workloads

EXACTLY = "from its kept snapshot: as if it had been made in one go"
FROM_TAIL = (
    "from its tail, for which there is no kept snapshot: what is new differs from a longer run's "
    "(docs/resume.md)"
)


def _way(extension: Extension) -> str:
    return EXACTLY if extension.is_exact else FROM_TAIL


@final
class RunGrowth:
    """How the videos of a run grow that goes on, if they do.

    What is settled is written first of all, in one file, and what follows from it can be written
    again: a process that dies at it leaves a run that ``--resume`` goes on with.

    Args:
        folder: Of the run.
        num_frames: Where it is to be extended: the option ``data.num_frames``; ``None``: it goes on
            as it was begun, or extended before.
        first: Whether this is the first rank of all, which looks and writes.
        kept: Says what stays of a request's file of so many video frames and of this checksum.
    """

    def __init__(
        self,
        folder: RunFolder,
        num_frames: int | None,
        *,
        first: bool,
        kept: Callable[[Path, int, str], KeptVideo],
    ) -> None:
        self._folder = folder
        self._num_frames = num_frames
        self._first = first
        self._kept = kept
        self._settled: Extensions | None = None
        self._moved = False

    @property
    def requests(self) -> Mapping[int, Extension]:
        """How requests grow, or have grown; known after ``parts``."""
        return {} if self._settled is None else self._settled.requests

    def parts(self, workloads: Workloads, requests: Sequence[Request]) -> Sequence[Request]:
        """Return what is to be made: requests, or the parts by which their videos grow.

        Args:
            workloads: Of the run.
            requests: For the whole videos.

        Raises:
            ConfigurationError: The run cannot be extended so.
            OutputError: A file is not what the run has left.
        """
        self._settled = self._settle(workloads, requests)
        if self._settled is None:
            return requests
        made = finished_requests(self._folder, requests)
        return self._settled.parts(requests, self._folder, made)

    def _settle(self, workloads: Workloads, requests: Sequence[Request]) -> Extensions | None:
        if self._num_frames is None:
            return Extensions.read(self._folder)
        if not self._first:  # the first rank may have written it already
            found = Extensions.read(self._folder)
            if found is not None and found.num_frames == self._num_frames:
                return found
        plan = ExtensionPlan(self._folder, workloads, self._kept)
        return plan.of(requests, self._num_frames)

    def check(self, config: str, inputs: Mapping[str, Any]) -> None:
        """Refuse to go on with another video than was begun, but for its length.

        Args:
            config: As it would be written now.
            inputs: As they are now.

        Raises:
            ConfigurationError: Names what differs.
        """
        lengths = {index: one.to for index, one in self.requests.items()}
        self._moved = check_unchanged(
            self._folder, config, None if self._settled is None else self._settled.num_frames
        )
        check_inputs(self._folder, inputs, lengths)

    def commit(self, config: str, inputs: dict[str, Any]) -> None:
        """Write what has been settled, and where files are now; the folder is this run's.

        Args:
            config: As it is now.
            inputs: As they are now.
        """
        settled = self._settled
        if settled is not None and self._num_frames is not None:
            settled.write(self._folder)
            for index, one in self.requests.items():
                if one.to == self._num_frames:
                    sys.stderr.write(f"longtake: request {index} grows {_way(one)}\n")
        grows = settled is not None and length_of(self._folder) != settled.num_frames
        if grows or self._moved:
            self._folder.write_json(INPUTS, inputs)
            self._folder.write_text(CONFIG, config)

    @property
    def seams(self) -> dict[int, tuple[int, ...]]:
        """At how many video frames requests were extended from their tails, by request."""
        return {index: one.seams for index, one in self.requests.items() if one.seams}
