"""Tasks of a schedule: latent-frame ranges, neighbors, tasks.

Everything here is immutable and free of tensors, so a schedule can be compared, printed and
simulated on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class FrameRange:
    """Consecutive latent frames ``start .. stop - 1`` of the whole video.

    Args:
        start: First latent frame.
        stop: One past the last latent frame.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"frames {self.start}..{self.stop} do not run forward from 0")

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, frame: int) -> bool:
        return self.start <= frame < self.stop

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"

    def first(self, count: int) -> FrameRange:
        """Return the first ``count`` frames, or all of them where there are fewer."""
        return FrameRange(self.start, min(self.start + count, self.stop))

    def last(self, count: int) -> FrameRange:
        """Return the last ``count`` frames, or all of them where there are fewer."""
        return FrameRange(max(self.stop - count, self.start), self.stop)

    def within(self, outer: FrameRange) -> slice:
        """Return this range as a slice of a tensor dim that holds ``outer``.

        Raises:
            ValueError: A frame of this range is not in ``outer``.
        """
        if self.start < outer.start or self.stop > outer.stop:
            raise ValueError(f"frames {self} are not within {outer}")
        return slice(self.start - outer.start, self.stop - outer.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbor:
    """What a task may see of an adjacent block, at the moment the task runs.

    Args:
        block: Index of the adjacent block.
        frames: The latent frames of it that the task's window sees.
        sees: The task's own latent frames that the adjacent block's window sees.
        steps_done: How many denoising steps its latents have behind them when the task runs;
            0 for a block that has not entered yet.
        runs_step: The step that it runs in the task's own iteration; ``None`` where it is
            finished or has not entered. The following block has run it before the task, the
            preceding block runs it after the task.
    """

    block: int
    frames: FrameRange
    sees: FrameRange
    steps_done: int
    runs_step: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One forward of one block's window through all layers, then one sampler step.

    Args:
        index: Number of the task in serial order, from 0: what messages and actions are keyed by.
        iteration: Pass over the queue in which the task runs.
        block: Index of the block along the video.
        step: Denoising step, 0 = noisiest.
        frames: The block's own latent frames.
        before: The preceding block, or ``None`` at the start of the video.
        after: The following block, or ``None`` at the end of the video. A block that has not
            entered yet is named, with ``steps_done`` 0.
        last_step: Whether the block is finished after this task.
    """

    index: int
    iteration: int
    block: int
    step: int
    frames: FrameRange
    before: Neighbor | None
    after: Neighbor | None
    last_step: bool

    def steps_done(self, frame: int) -> int:
        """Return how many steps a latent frame that the task sees has behind it when it runs.

        Args:
            frame: Absolute; of the task's own frames or of a neighbor's that it sees.
        """
        if self.before is not None and frame < self.frames.start:
            return self.before.steps_done
        if self.after is not None and frame >= self.frames.stop:
            return self.after.steps_done
        return self.step
