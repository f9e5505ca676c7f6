"""Feature cache contract: what a task forwards, reads, keeps and drops, given what is held."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from longtake.task import FrameRange, Frames, Task


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """Names the keys and values of one latent frame, in all layers.

    Args:
        frame: Whose they are.
        index: The task that has made them.
    """

    frame: int
    index: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of an entry that is held.

    Args:
        version: Steps that the frame had behind it when they were made.
        reader: The last block whose tasks may see the entry; ``None``: any.
    """

    version: int
    reader: int | None = None


Held: TypeAlias = Mapping[Entry, Kept]
"""The entries that are held when a task runs, oldest first."""


@dataclass(frozen=True, slots=True)
class Read:
    """An entry that attention sees.

    Args:
        entry: Which one.
        position: Where its keys stand along time: the frame itself, or where they are moved to.
    """

    entry: Entry
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one task computes, what it reads from the store and what it leaves there.

    Self-attention's queries are the tokens of ``frames``; its keys and values are, in this order,
    those of ``reads_before``, of ``frames``, of ``reads_after``.

    Args:
        frames: Latent frames that pass through all layers; what the task denoises stands
            together. Empty: the task has nothing to do.
        positions: Theirs along time.
        reads_before: Entries whose keys come first.
        reads_after: Entries whose keys come last.
        keeps: What is left, of frames of ``frames``.
        drops: Entries that are gone after the task's attention, layer by layer.
        latents: Finished frames whose latents later tasks may forward.
    """

    frames: Frames
    positions: Frames
    reads_before: tuple[Read, ...] = ()
    reads_after: tuple[Read, ...] = ()
    keeps: tuple[tuple[Entry, Kept], ...] = ()
    drops: tuple[Entry, ...] = ()
    latents: tuple[FrameRange, ...] = ()

    @property
    def reads(self) -> tuple[Read, ...]:
        """All entries that attention sees, in the order of their keys."""
        return self.reads_before + self.reads_after

    @property
    def key_positions(self) -> Frames:
        """Where all that attention sees stands along time, in the order of its keys."""
        before, after = (
            tuple(read.position for read in reads)
            for reads in (self.reads_before, self.reads_after)
        )
        return before + self.positions + after

    @property
    def shown(self) -> set[int]:
        """All latent frames that attention sees, forwarded or read."""
        return {*self.frames, *(read.entry.frame for read in self.reads)}


class FeatureCache(ABC):
    """Decides how a task sees the rest: recomputed from latents, or as kept features.

    A pure function of the task and of what is held, so all ranks decide alike without a message;
    what is held is data, passed in, and the same walk over the schedule gives it anew
    (:func:`longtake.caches.forwards`).
    """

    @abstractmethod
    def window(self, task: Task, held: Held) -> Window:
        """Return what ``task`` computes, reads, leaves and drops.

        Args:
            task: Which one.
            held: The entries that are held when it runs.

        Raises:
            ConfigurationError: The cache cannot serve such tasks; says which can.
        """

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"


def positions_of(task: Task, frames: Frames) -> Frames:
    """Return where frames of a window stand along time: where a run says, or absolute."""
    if all(run.positions is None for run in task.runs):
        return frames
    said = {
        frame: position
        for run in task.runs
        for frame, position in zip(run.frames, run.positions or run.frames, strict=True)
    }
    return tuple(said.get(frame, frame) for frame in frames)
