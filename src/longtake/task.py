"""Tasks of a schedule: what one forward denoises, what it sees of the rest, what it leaves.

Everything here is immutable and free of tensors, so a schedule can be compared, printed and
simulated on any machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

Frames: TypeAlias = tuple[int, ...]
"""Latent frames, absolute in the video, in the order in which a window holds them. Those of
warm-up blocks, which are never emitted, are negative."""


@dataclass(frozen=True, slots=True, order=True)
class FrameRange:
    """Consecutive latent frames ``start .. stop - 1`` of the whole video.

    Args:
        start: First latent frame; negative for warm-up blocks.
        stop: One past the last latent frame.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.start > self.stop:
            raise ValueError(f"frames {self.start}..{self.stop} do not run forward")

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, frame: int) -> bool:
        return self.start <= frame < self.stop

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"

    @classmethod
    def around(cls, frames: Frames) -> FrameRange:
        """Return the smallest range that holds all of ``frames``; an empty one for none."""
        return cls(min(frames), max(frames) + 1) if frames else cls(0, 0)

    @property
    def each(self) -> Frames:
        """The frames one by one."""
        return tuple(range(self.start, self.stop))

    def first(self, count: int) -> FrameRange:
        """Return the first ``count`` frames, or all of them where there are fewer."""
        return FrameRange(self.start, min(self.start + count, self.stop))

    def last(self, count: int) -> FrameRange:
        """Return the last ``count`` frames, or all of them where there are fewer."""
        return FrameRange(max(self.stop - count, self.start), self.stop)

    def overlaps(self, other: FrameRange) -> bool:
        """Whether a frame is in both."""
        return max(self.start, other.start) < min(self.stop, other.stop)

    def within(self, outer: FrameRange) -> slice:
        """Return this range as a slice of a tensor dim that holds ``outer``.

        Raises:
            ValueError: A frame of this range is not in ``outer``.
        """
        if self.start < outer.start or self.stop > outer.stop:
            raise ValueError(f"frames {self} are not within {outer}")
        return slice(self.start - outer.start, self.stop - outer.start)


@dataclass(frozen=True, slots=True)
class Video:
    """What a schedule is made for.

    Args:
        latent_frames: Length in latent frames; ``None`` for an endless video.
        steps: Denoising steps of each block.
        prompt_changes: Latent frames from which on the video has another prompt, in order.
        known: Latent frames at the video's beginning that are known before it is made.
    """

    latent_frames: int | None
    steps: int
    prompt_changes: tuple[int, ...] = ()
    known: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Enter:
    """A block that comes in with a task.

    Args:
        block: Which one; negative for a warm-up block.
        frames: All its latent frames.
        version: Steps that it is taken to have behind it.
        source: Where its latents come from: the frame, of a block that is finished, that each of
            its frames copies, noised. ``None``: the noise source; where ``version`` is the number
            of steps, the frames that are known of the video.
        level: The step to whose noise level a copy is noised; ``None``: that of ``version``.
    """

    block: int
    frames: FrameRange
    version: int = 0
    source: Frames | None = None
    level: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Frames of a block that a task denoises.

    Args:
        block: Which block.
        block_frames: All its latent frames.
        step: Denoising step, 0 = noisiest.
        frames: Those that this task denoises, in the order of its window.
        advances: Whether the block takes its sampler step after this task.
        last_step: Whether it is finished then.
        weights: Weight of each frame's prediction, where several windows of one step hold it: the
            block takes its step with their weighted mean. ``None``: this one is all there is.
        positions: Of the frames along time; ``None``: absolute.
    """

    block: int
    block_frames: FrameRange
    step: int
    frames: Frames
    advances: bool = True
    last_step: bool = False
    weights: tuple[float, ...] | None = None
    positions: Frames | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Latent frames beside its own that a task may see, as they stand when it runs.

    Args:
        frames: Which ones.
        version: Steps that they have behind them; the number of steps where they are finished.
        told: The step whose timestep the model is told for them where they are forwarded;
            ``None``: of their own level.
        noised: Share of fresh noise that is mixed into them where they are forwarded; they are
            told that level.
        own_level: Whether the model must be told their level where they are forwarded; otherwise a
            model that takes one timestep per window is told the task's.
    """

    frames: FrameRange
    version: int
    told: int | None = None
    noised: float = 0.0
    own_level: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Frames whose keys and values a task may leave for later ones.

    Args:
        frames: Which ones, of the frames that it denoises or of finished blocks.
        reader: The block whose tasks may see them; ``None``: any.
        anew: Whether keys and values of them may have been left before: those that a cache holds
            are made anew, the others stay away.
    """

    frames: FrameRange
    reader: int | None = None
    anew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One forward of one window through all layers, and the sampler steps that follow it.

    A task without ``runs`` is forwarded for the keys and values alone that it leaves: a clean
    pass over a finished block, or a recache after a change of the prompt.

    Args:
        index: Number of the task in serial order, from 0: what messages and actions are keyed by.
        iteration: Pass over the blocks in flight in which the task runs.
        block: The block that people read, and
        step: its step; the number of steps where it is finished.
        steps: Denoising steps of every block.
        runs: What it denoises, in the order of time.
        leaves: What it may leave for later tasks. Frames of finished blocks are forwarded for it.
        sees: What its window may see beside that, in the order of time.
        prompt: Frames whose prompt conditions it.
        enters: Blocks that come in with it.
        later: Finished frames that later tasks may see.
        left_later: Finished frames whose keys and values later tasks may leave.
    """

    index: int
    iteration: int
    block: int
    step: int
    steps: int
    runs: tuple[Run, ...]
    prompt: FrameRange
    leaves: tuple[Leave, ...] = ()
    sees: tuple[Seen, ...] = ()
    enters: tuple[Enter, ...] = ()
    later: tuple[FrameRange, ...] = ()
    left_later: tuple[FrameRange, ...] = ()

    @property
    def own(self) -> Frames:
        """The frames that it denoises, in the order of the window."""
        if len(self.runs) == 1:  # asked for at every window: most tasks denoise one block
            return self.runs[0].frames
        return tuple(chain.from_iterable(run.frames for run in self.runs))

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"task {self.index} (block {self.block}, step {self.step})"

    @property
    def seen_before(self) -> Frames:
        """The frames before its own that its window may see; none for a pass without any."""
        first = min(self.own, default=0)
        return tuple(f for seen in self.sees if seen.frames.start < first for f in seen.frames.each)

    @property
    def seen_after(self) -> Frames:
        """The frames after its own that its window may see."""
        last = max(self.own, default=0)
        return tuple(f for seen in self.sees if seen.frames.start > last for f in seen.frames.each)

    @property
    def finished(self) -> tuple[Run, ...]:
        """Blocks of the video that are finished after it, in the order of time."""
        return tuple(run for run in self.runs if run.last_step and run.block >= 0)

    def run_of(self, frame: int) -> Run | None:
        """Return what denoises a frame, if the task does."""
        return next((run for run in self.runs if frame in run.frames), None)

    def seen(self, frame: int) -> Seen | None:
        """Return how a frame is seen that the task does not denoise, if at all."""
        return next((seen for seen in self.sees if frame in seen.frames), None)


def spans(frames: Iterable[int]) -> list[FrameRange]:
    """Return frames as runs of consecutive ones, in their order."""
    found: list[FrameRange] = []
    for frame in frames:
        if found and found[-1].stop == frame:
            found[-1] = FrameRange(found[-1].start, frame + 1)
        else:
            found.append(FrameRange(frame, frame + 1))
    return found
