"""Budget of a feature cache: how much it will hold, and for how much nobody asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from longtake.caches.base import FeatureCache
from longtake.caches.forwards import Forward, forwards
from longtake.task import Task


def peak_held_frames(cache: FeatureCache, tasks: Iterable[Task]) -> int:
    """Return the largest number of latent frames whose keys and values are held at once.

    Plays the schedule without tensors. Multiply by ``2 * tokens per frame * model dim * bytes
    per number * guidance branches * layers held`` for bytes.

    Args:
        cache: The feature cache.
        tasks: The schedule, finite; see :func:`settled_held_frames` for an endless one.

    Raises:
        ConfigurationError: A task reads an entry that is not there.
    """
    return settled_held_frames(forwards(tasks, cache), None)


def settled_held_frames(played: Iterable[Forward], blocks: int | None, after: int = 0) -> int:
    """Return the largest number of frames held, played until that has not grown for some blocks.

    A queue is full when its blocks are in flight, a rolling cache much later: when as many frames
    have been made as it holds.

    Args:
        played: The schedule's forwards, finite or not.
        blocks: Blocks that must be finished one after another without more being held; ``None``:
            play all. What grows with every block is played to the end.
        after: Latent frame from which on they count: the last one where the prompt changes.
    """
    peak = quiet = 0
    for forward, held in _counted(played):
        if held > peak:
            peak, quiet = held, 0
        quiet += sum(run.block_frames.start >= after for run in forward.task.finished)
        if blocks is not None and quiet >= blocks:
            break
    return peak


def settled_forwards(
    played: Iterable[Forward], blocks: int, most: int = 1000
) -> tuple[list[Forward], bool]:
    """Return the first forwards, until what is held no longer grows, and whether they are all.

    Args:
        played: The schedule's forwards.
        blocks: Blocks that must be finished without its having grown.
        most: After how many tasks the growth of a cache that keeps all is no longer followed.
    """
    first: list[Forward] = []
    peak = quiet = 0
    for forward, held in _counted(played):
        first.append(forward)
        if held > peak and len(first) <= most:
            peak, quiet = held, 0
        quiet += sum(run.last_step for run in forward.task.runs)
        if quiet >= blocks:
            return first, False
    return first, True


def _counted(played: Iterable[Forward]) -> Iterator[tuple[Forward, int]]:
    """Yield every forward with the number of latent frames whose entries are held after it."""
    held = 0
    for forward in played:
        held += len(forward.window.keeps) - len(forward.window.drops)
        yield forward, held


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """Keys and values that are kept for nobody.

    Args:
        frames: Latent frames' entries that nobody reads.
        kept: All that are kept.
        peak: Most of the unread ones that are held at once.
        passes: Tasks without a step of their own that leave nothing else.
    """

    frames: int
    kept: int
    peak: int
    passes: int


def unread_entries(cache: FeatureCache, tasks: Iterable[Task], *, whole: bool = True) -> Unread:
    """Count the entries that are left and then dropped, or still held at the end, unread.

    Args:
        cache: The feature cache.
        tasks: The schedule, finite, or its beginning.
        whole: Whether it is all of it; otherwise what is still held at the end may yet be read.

    Raises:
        ConfigurationError: A task reads an entry that is not there.
    """
    walk = list(forwards(tasks, cache))
    kept = [entry for forward in walk for entry, _ in forward.window.keeps]
    dropped = {entry for forward in walk for entry in forward.window.drops}
    read = {read.entry for forward in walk for read in forward.window.reads}
    vain = {entry for entry in kept if entry not in read and (whole or entry in dropped)}
    held = peak = passes = 0
    for forward in walk:
        made = [entry in vain for entry, _ in forward.window.keeps]
        held += sum(made) - len(vain.intersection(forward.window.drops))
        peak = max(peak, held)
        passes += all(made) and not forward.task.runs
    return Unread(frames=len(vain), kept=len(kept), peak=peak, passes=passes)
