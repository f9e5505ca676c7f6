"""Forwards of a schedule: every task with its window, walked with the entries that are held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from longtake.caches.base import Entry, FeatureCache, Held, Kept, Window
from longtake.errors import ConfigurationError
from longtake.task import FrameRange, Task, spans


@dataclass(frozen=True, slots=True)
class Forward:
    """A task and what the feature cache makes of it: what runs, and what plans are made of.

    Args:
        task: Which one.
        window: What it computes, reads, keeps and drops.
    """

    task: Task
    window: Window

    @property
    def origin(self) -> int:
        """The first position that the window shows of what the schedule lets the task see.

        There text stands in time. Alike under every cache of a queue, whether the frames before
        are recomputed or read.
        """
        window, task = self.window, self.task
        reads = [r.position for r in window.reads if task.seen(r.entry.frame) is not None]
        return min([*window.positions, *reads])

    @property
    def latents(self) -> list[tuple[FrameRange, int]]:
        """The latents that the window reads, each with the steps that they must have behind them.

        Frames of one block at least stand together.
        """
        task, found = self.task, list[tuple[FrameRange, int]]()
        versions = {frame: run.step for run in task.runs for frame in run.frames}
        for frame in self.window.frames:
            version = versions.get(frame)
            if version is None:
                seen = task.seen(frame)
                version = task.steps if seen is None else seen.version
            if found and found[-1][0].stop == frame and found[-1][1] == version:
                found[-1] = (FrameRange(found[-1][0].start, frame + 1), version)
            else:
                found.append((FrameRange(frame, frame + 1), version))
        sources = {f for enter in task.enters for f in enter.source or ()}
        return found + [(span, task.steps) for span in spans(sorted(sources))]


def forwards(
    tasks: Iterable[Task], cache: FeatureCache, held: Held | None = None
) -> Iterator[Forward]:
    """Yield every task with its window, lazily; tasks with nothing to do are left out.

    Args:
        tasks: In serial order; endless for an endless video.
        cache: How tasks see the rest.
        held: The entries that are held before the first task; ``None``: none.

    Raises:
        ConfigurationError: A task reads, drops or keeps what cannot be; names the task.
    """
    entries: dict[Entry, Kept] = dict(held or {})
    for task in tasks:
        window = cache.window(task, entries)
        _check(task, window, entries)
        for entry in window.drops:
            del entries[entry]
        entries.update(window.keeps)
        if window.frames:
            yield Forward(task, window)


def _check(task: Task, window: Window, held: dict[Entry, Kept]) -> None:
    for read in window.reads:
        if read.entry not in held:
            raise ConfigurationError(
                f"{task.name} reads the keys and values of latent frame {read.entry.frame} that "
                f"task {read.entry.index} made, but {_why(read.entry, task)}; use a cache that "
                f"fits the scheduler."
            )
    for entry in window.drops:
        if entry not in held:
            raise ConfigurationError(
                f"{task.name} drops the keys and values of latent frame {entry.frame} of task "
                f"{entry.index}, which are not held."
            )
    for entry, _ in window.keeps:
        if entry.index != task.index or entry.frame not in window.frames:
            raise ConfigurationError(
                f"{task.name} cannot leave the keys and values of latent frame {entry.frame}: it "
                f"does not compute them."
            )
    missing = set(task.own).difference(window.frames)
    if missing:
        raise ConfigurationError(f"{task.name} leaves out latent frame {min(missing)} of its own.")
    own = set(task.own)
    seen = [one.frames for one in task.sees] + [one.frames for one in task.leaves]
    unseen = [f for f in window.frames if f not in own and not any(f in one for one in seen)]
    if unseen:
        raise ConfigurationError(
            f"{task.name} forwards latent frame {unseen[0]}, which the schedule does not let it "
            f"see."
        )


def _why(entry: Entry, task: Task) -> str:
    if entry.index >= task.index:
        return "that task comes later"
    return "nobody has left them, or they have been dropped"
