"""Check of a schedule: every task against what the tasks before it have done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn, final

from longtake.errors import ConfigurationError
from longtake.schedulers.base import BlockScheduler
from longtake.task import Enter, FrameRange, Leave, Run, Seen, Task, Video


def checked(scheduler: BlockScheduler, video: Video) -> Iterator[Task]:
    """Yield a schedule's tasks lazily, each after it has been found right.

    What is wrong with a schedule of one's own shows here, without a tensor, before a run: blocks
    out of order, a step that is not the block's next one, frames that are seen before they are
    there or after they have been given up, predictions that cover no block.

    Args:
        scheduler: Whose.
        video: What the tasks are for.

    Raises:
        ConfigurationError: Names the first task that cannot be, and why.
    """
    walk = _Walk(scheduler, video)
    for task in scheduler.tasks(video):
        walk.take(task)
        yield task
    walk.close()


@dataclass(slots=True)
class _Block:
    """A block that has come in.

    Args:
        frames: Its latent frames.
        version: Steps that it has behind it.
        weights: Of each frame's predictions of the step under way, in all.
    """

    frames: FrameRange
    version: int
    weights: dict[int, float] = field(default_factory=dict)


@final
class _Walk:
    """What has become of the blocks when a task runs."""

    def __init__(self, scheduler: BlockScheduler, video: Video) -> None:
        self._name = type(scheduler).__name__
        self._video = video
        self._cut = enumerate(scheduler.blocks(video.latent_frames))
        self._blocks: dict[int, _Block] = {}
        self._home: dict[int, int] = {}
        """The block that a latent frame is of."""
        self._later: tuple[FrameRange, ...] = ()
        self._left_later: tuple[FrameRange, ...] = ()
        self._tasks = self._iteration = self._finished = 0

    def take(self, task: Task) -> None:
        """Let a task run.

        Raises:
            ConfigurationError: It cannot.
        """
        if task.index != self._tasks:
            self._refuse(task, f"is number {self._tasks} of the schedule: index counts from 0")
        if task.iteration < self._iteration:
            self._refuse(task, f"is of iteration {task.iteration}, after one of {self._iteration}")
        if task.steps != self._video.steps:
            self._refuse(task, f"says that there are {task.steps} steps, not {self._video.steps}")
        self._tasks, self._iteration = self._tasks + 1, task.iteration
        here = {frame for enter in task.enters for frame in enter.frames.each}
        for enter in task.enters:
            self._enter(task, enter, here)
        self._window(task)
        for seen in task.sees:
            self._see(task, seen, here)
        for leave in task.leaves:
            self._leave(task, leave)
        for run in task.runs:
            self._run(task, run)
        self._later, self._left_later = task.later, task.left_later

    def close(self) -> None:
        """End the schedule.

        Raises:
            ConfigurationError: A block of the video is not finished.
        """
        missing = [b for b, one in self._blocks.items() if b >= 0 and self._steps_left(one)]
        block, frames = next(self._cut, (None, None))
        if missing:
            stands = (
                f"has {self._blocks[missing[0]].version} of {self._video.steps} steps behind it"
            )
            block = missing[0]
        elif block is None:
            return
        else:
            stands = f"(latent frames {frames}) has never entered"
        raise ConfigurationError(
            f"the schedule of {self._name} ends after {self._tasks} tasks, but block {block} "
            f"{stands}: {_ADVICE}"
        )

    def _enter(self, task: Task, enter: Enter, here: set[int]) -> None:
        """Put a block in."""
        block, steps = enter.block, self._video.steps
        if block in self._blocks:
            self._refuse(task, f"lets block {block} enter, which has entered before")
        if block >= 0:
            expected, frames = next(self._cut, (None, None))
            if block != expected:
                self._refuse(
                    task,
                    f"lets block {block} enter, but the next one in the order of time is "
                    f"{'none' if expected is None else expected}",
                )
            if enter.frames != frames:
                self._refuse(
                    task,
                    f"lets block {block} enter with latent frames {enter.frames}, but it is cut "
                    f"as {frames}",
                )
        taken = [frame for frame in enter.frames.each if frame in self._home]
        if taken or not len(enter.frames):
            held = f"are block {self._home[taken[0]]}'s already" if taken else "are none"
            self._refuse(
                task, f"lets block {block} enter with latent frames {enter.frames}, which {held}"
            )
        self._check_source(task, enter, here)
        self._blocks[block] = _Block(enter.frames, enter.version)
        self._home.update(dict.fromkeys(enter.frames.each, block))
        if not 0 <= enter.version <= steps:
            self._refuse(task, f"lets block {block} enter after {enter.version} of {steps} steps")

    def _check_source(self, task: Task, enter: Enter, here: set[int]) -> None:
        """Refuse a block whose latents come from nowhere."""
        block, steps = enter.block, self._video.steps
        if enter.source is None:
            if enter.version and enter.version < steps:
                self._refuse(
                    task,
                    f"lets block {block} enter after {enter.version} steps, but names no frames "
                    f"that it copies (source)",
                )
            if enter.version == steps and self._video.known < len(enter.frames):
                self._refuse(
                    task,
                    f"lets block {block} enter finished, but of its {len(enter.frames)} latent "
                    f"frames only {self._video.known} are known",
                )
            return
        if len(enter.source) != len(enter.frames):
            self._refuse(
                task,
                f"lets block {block} of {len(enter.frames)} latent frames copy {len(enter.source)}",
            )
        for frame in enter.source:
            if self._version(frame) != steps:
                self._refuse(task, f"copies latent frame {frame}, which {self._stands(frame)}")
            self._check_promise(task, frame, here, "copies")

    def _window(self, task: Task) -> None:
        """Refuse a window that holds a frame twice or out of order."""
        own, seen = task.own, [f for one in task.sees for f in one.frames.each]
        finished = {f for one in task.leaves for f in one.frames.each}.difference(own)
        for kind, frames in (("denoises", list(own)), ("sees", seen)):
            if len(set(frames)) < len(frames):
                twice = next(frame for frame in frames if frames.count(frame) > 1)
                self._refuse(task, f"{kind} latent frame {twice} twice")
        if seen != sorted(seen):
            self._refuse(task, "does not list what it sees in the order of time")
        both = set(seen).intersection(finished.union(own))
        if both:
            self._refuse(task, f"sees latent frame {min(both)}, which it denoises or leaves itself")

    def _see(self, task: Task, seen: Seen, here: set[int]) -> None:
        """Refuse frames that are not there, or at another version than stated."""
        for frame in seen.frames.each:
            if self._version(frame) != seen.version:
                self._refuse(
                    task,
                    f"sees latent frame {frame} with {seen.version} steps behind it, but it "
                    f"{self._stands(frame)}",
                )
            self._check_promise(task, frame, here, "sees")
        if not 0 <= seen.noised < 1:
            self._refuse(task, f"sees frames with a share of {seen.noised} of noise")

    def _leave(self, task: Task, leave: Leave) -> None:
        """Refuse finished frames that are not finished, or have been given up."""
        for frame in set(leave.frames.each).difference(task.own):
            if self._version(frame) != self._video.steps:
                self._refuse(
                    task,
                    f"leaves the keys and values of latent frame {frame}, which it does not "
                    f"denoise and which {self._stands(frame)}",
                )
            self._check_promise(task, frame, set(), "leaves")
            if not _in(frame, self._left_later):
                self._refuse(
                    task,
                    f"leaves the keys and values of the finished latent frame {frame}, which the "
                    f"task before it did not list among those that are left later (left_later)",
                )

    def _run(self, task: Task, run: Run) -> None:
        """Denoise frames of a block, and take its sampler step."""
        block = self._blocks.get(run.block)
        if block is None:
            self._refuse(task, f"denoises block {run.block}, which has not entered")
        if run.step != block.version or run.step >= self._video.steps:
            self._refuse(
                task,
                f"denoises block {run.block} at step {run.step}, but it has {block.version} of "
                f"{self._video.steps} steps behind it",
            )
        if run.block_frames != block.frames:
            self._refuse(
                task,
                f"says that block {run.block} has latent frames {run.block_frames}, but it "
                f"entered with {block.frames}",
            )
        outside = [frame for frame in run.frames if frame not in block.frames]
        if outside:
            self._refuse(task, f"denoises latent frame {outside[0]} as one of block {run.block}")
        for name, values in (("weights", run.weights), ("positions", run.positions)):
            if values is not None and len(values) != len(run.frames):
                self._refuse(
                    task, f"has {len(values)} {name} for {len(run.frames)} frames of a block"
                )
        self._weigh(task, run, block)
        if run.advances:
            self._advance(task, run, block)
        elif run.last_step:
            self._refuse(task, f"ends block {run.block} without its sampler step (advances)")

    def _weigh(self, task: Task, run: Run, block: _Block) -> None:
        """Add the weights of a window's predictions."""
        whole = set(run.frames) == set(block.frames.each)
        if run.weights is None and (block.weights or not run.advances or not whole):
            self._refuse(
                task,
                f"denoises {len(run.frames)} of the {len(block.frames)} latent frames of block "
                f"{run.block}, one of several windows of its step, but has no weights",
            )
        weights = run.weights or (1.0,) * len(run.frames)
        for frame, weight in zip(run.frames, weights, strict=True):
            block.weights[frame] = block.weights.get(frame, 0.0) + weight

    def _advance(self, task: Task, run: Run, block: _Block) -> None:
        """Take a block's sampler step."""
        for frame in block.frames.each:
            if block.weights.get(frame, 0.0) <= _LEAST:
                self._refuse(
                    task,
                    f"takes the sampler step of block {run.block}, but no window of step "
                    f"{run.step} weighs its latent frame {frame}",
                )
        block.weights.clear()
        block.version += 1
        done = block.version == self._video.steps
        if run.last_step != done:
            self._refuse(
                task,
                f"{'does not say' if done else 'says'} that block {run.block} is finished after "
                f"step {run.step} (last_step), but there are {self._video.steps} steps",
            )
        if done and run.block >= 0:
            if run.block != self._finished:
                self._refuse(
                    task,
                    f"finishes block {run.block} before block {self._finished}; blocks finish in "
                    f"the order of time",
                )
            self._finished += 1

    def _check_promise(self, task: Task, frame: int, here: set[int], what: str) -> None:
        """Refuse a finished frame that no longer is where it can be seen."""
        finished = self._version(frame) == self._video.steps
        if finished and frame not in here and not _in(frame, self._later):
            self._refuse(
                task,
                f"{what} the finished latent frame {frame}, which the task before it did not list "
                f"among those that are seen later (later)",
            )

    def _version(self, frame: int) -> int | None:
        home = self._home.get(frame)
        return None if home is None else self._blocks[home].version

    def _stands(self, frame: int) -> str:
        home = self._home.get(frame)
        if home is None:
            return "has not entered"
        return f"has {self._blocks[home].version} (block {home})"

    def _steps_left(self, block: _Block) -> bool:
        return block.version < self._video.steps

    def _refuse(self, task: Task, what: str) -> NoReturn:
        raise ConfigurationError(f"{task.name} of {self._name} {what}: {_ADVICE}")


_ADVICE = "the schedule is wrong; mend the scheduler, or choose another."
_LEAST = 1e-6
"""Smallest sum of weights of a frame that its predictions are divided by."""


def _in(frame: int, spans: Iterable[FrameRange]) -> bool:
    return any(frame in span for span in spans)
