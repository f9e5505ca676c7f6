"""Rundown of a schedule: what counts of its tasks for their time, whatever the layout."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from longtake.caches import FeatureCache, Forward
from longtake.plan.walk import walk
from longtake.plan.workload import Workload
from longtake.schedulers import BlockScheduler
from longtake.task import Video

_REMEMBERED: Final = 16
"""Schedules whose rundowns are kept: a plan times many layouts on few of them."""


@dataclass(frozen=True, slots=True)
class Step:
    """What counts of a task.

    Args:
        shape: Number of its shape.
        waits: The last task whose sampler steps its window sees; -1 for none.
        own: Latent frames that are predicted.
        advances: Sampler steps that it takes.
        finished: Latent frames of each block that it finishes.
    """

    shape: int
    waits: int
    own: int
    advances: int
    finished: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Widest:
    """The largest forward of a schedule.

    Args:
        frames: Latent frames that pass through the layers.
        context: Frames whose keys and values are read beside them.
    """

    frames: int
    context: int


@dataclass(frozen=True, slots=True)
class Rundown:
    """The tasks of a finite workload: their shapes, each with a task that has it.

    Args:
        steps: In serial order.
        shapes: By number.
    """

    steps: tuple[Step, ...]
    shapes: tuple[Forward, ...]

    @property
    def counts(self) -> list[int]:
        """How many tasks have each shape."""
        found = Counter(step.shape for step in self.steps)
        return [found[shape] for shape in range(len(self.shapes))]

    @property
    def finished(self) -> list[int]:
        """Latent frames of each finished block."""
        return [frames for step in self.steps for frames in step.finished]

    @property
    def widest(self) -> Widest:
        """The largest forward; of a workload's first blocks that of the whole: it has settled."""
        windows = [forward.window for forward in self.shapes]
        return Widest(
            frames=max(len(window.frames) for window in windows),
            context=max(len(window.reads) for window in windows),
        )

    @property
    def widest_later(self) -> Widest | None:
        """The largest forward after the first block has come out; ``None``: there is none."""
        first = next((place for place, step in enumerate(self.steps) if step.finished), None)
        later = {step.shape for step in self.steps[first + 1 :]} if first is not None else set()
        windows = [self.shapes[shape].window for shape in later]
        if not windows:
            return None
        return Widest(
            frames=max(len(window.frames) for window in windows),
            context=max(len(window.reads) for window in windows),
        )


def rundown(workload: Workload) -> Rundown:
    """Walk a finite workload's schedule; any number of layouts can be timed on it.

    What is walked depends on the schedule, the cache and the video alone, and is walked once.
    """
    return _walked(workload.scheduler, workload.cache, workload.video)


@lru_cache(maxsize=_REMEMBERED)
def _walked(scheduler: BlockScheduler, cache: FeatureCache, video: Video) -> Rundown:
    steps: list[Step] = []
    shapes: dict[tuple[int, int, int], int] = {}
    examples: list[Forward] = []
    stepped: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for index, forward in enumerate(walk(scheduler, cache, video).first_checked()):
        task, window = forward.task, forward.window
        shape = (len(window.frames), len(window.reads), len(task.own))
        if shape not in shapes:
            shapes[shape] = len(examples)
            examples.append(forward)
        waits = -1
        for frames, version in forward.latents:
            for frame in frames.each:
                seen = (place for step, place in reversed(stepped[frame]) if step < version)
                waits = max(waits, next(seen, -1))
        for run in task.runs:
            for frame in run.block_frames.each:
                stepped[frame].append((run.step, index))
        finished = tuple(len(run.block_frames) for run in task.finished)
        advances = sum(run.advances for run in task.runs)
        steps.append(Step(shapes[shape], waits, len(task.own), advances, finished))
    return Rundown(tuple(steps), tuple(examples))
