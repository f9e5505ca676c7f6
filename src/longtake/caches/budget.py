"""Budget of a feature cache: how much it will hold, and for how much nobody asks."""

from __future__ import annotations

from collections.abc import Iterable

from longtake.caches.base import Entry, FeatureCache
from longtake.caches.forwards import forwards
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
    return settled_held_frames(cache, tasks, None)


def settled_held_frames(
    cache: FeatureCache, tasks: Iterable[Task], blocks: int | None, after: int = 0
) -> int:
    """Return the largest number of frames held, played until that has not grown for some blocks.

    A queue is full when its blocks are in flight, a rolling cache much later: when as many frames
    have been made as it holds.

    Args:
        cache: The feature cache.
        tasks: The schedule, finite or not.
        blocks: Blocks that must be finished one after another without more being held; ``None``:
            play all. What grows with every block is played to the end.
        after: Latent frame from which on they count: the last one where the prompt changes.

    Raises:
        ConfigurationError: A task reads an entry that is not there.
    """
    held = peak = quiet = 0
    for forward in forwards(tasks, cache):
        held += len(forward.window.keeps) - len(forward.window.drops)
        if held > peak:
            peak, quiet = held, 0
        quiet += sum(run.block_frames.start >= after for run in forward.task.finished)
        if blocks is not None and quiet >= blocks:
            break
    return peak


def unread_entries(cache: FeatureCache, tasks: Iterable[Task]) -> list[Entry]:
    """Return the entries that are left and then dropped, or still held at the end, unread.

    Args:
        cache: The feature cache.
        tasks: The schedule, finite.

    Raises:
        ConfigurationError: A task reads an entry that is not there.
    """
    unread: dict[Entry, None] = {}
    for forward in forwards(tasks, cache):
        for read in forward.window.reads:
            unread.pop(read.entry, None)
        unread.update({entry: None for entry, _ in forward.window.keeps})
    return list(unread)
