"""Budget of a feature cache: how much it will hold, known before anything runs."""

from __future__ import annotations

from collections.abc import Iterable

from longtake.caches.base import FeatureCache, FeatureKey
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
        KeyError: A task reads an entry that no earlier task has left.
    """
    held: dict[FeatureKey, int] = {}
    peak = 0
    for task in tasks:
        window = cache.window(task)
        for key in (window.reads_before, window.reads_after):
            if key is not None:
                del held[key]
        held.update({key: len(frames) for key, frames in window.keeps})
        peak = max(peak, sum(held.values()))
    return peak
