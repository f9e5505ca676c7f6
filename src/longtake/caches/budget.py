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
        tasks: The schedule, finite; for an endless video pass the tasks of a video of twice as
            many blocks as are in flight: the queue is in its steady state long before its end.

    Raises:
        ConfigurationError: A task reads an entry that is not there.
    """
    held = peak = 0
    for forward in forwards(tasks, cache):
        held += len(forward.window.keeps) - len(forward.window.drops)
        peak = max(peak, held)
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
