"""Feature cache contract: a pure decision per task, carried out by a ``FeatureStore``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum

from longtake.task import FrameRange, Task


class Part(StrEnum):
    """Which frames of a block an entry holds."""

    HEAD = "head"
    """The first frames, which the preceding block sees."""
    TAIL = "tail"
    """The last frames, which the following block sees."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class FeatureKey:
    """Names the keys and values that one task leaves for one later task.

    Args:
        block: The block whose features they are.
        step: The step whose forward computed them.
        part: Which of the block's frames they belong to.
    """

    block: int
    step: int
    part: Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one task computes, what it reads from the store and what it leaves there.

    Self-attention's queries are the tokens of ``frames``; its keys and values are, in the order
    of time, ``reads_before``, those of ``frames``, ``reads_after``.

    Args:
        frames: Latent frames that pass through all layers; the task's own frames are within.
        own: The task's own latent frames, whose prediction is kept.
        reads_before: Entry with the keys and values of the frames before, if any.
        reads_after: Entry with the keys and values of the frames after, if any.
        keeps: Entries to leave, with the latent frames (within ``frames``) they hold.
    """

    frames: FrameRange
    own: FrameRange
    reads_before: FeatureKey | None = None
    reads_after: FeatureKey | None = None
    keeps: tuple[tuple[FeatureKey, FrameRange], ...] = ()

    def context_frames(self, task: Task) -> int:
        """Return the latent frames whose keys and values are read, beside those of ``frames``."""
        before = 0 if self.reads_before is None or task.before is None else len(task.before.frames)
        after = 0 if self.reads_after is None or task.after is None else len(task.after.frames)
        return before + after


class FeatureCache(ABC):
    """Decides how a task sees its neighbors: recomputed from latents, or as kept features.

    A pure function of the task, so all ranks decide alike without a message. Every entry that is
    kept is read exactly once, by one later task, which takes it out of the store.
    """

    @abstractmethod
    def window(self, task: Task) -> Window:
        """Return what ``task`` computes, reads and leaves."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
