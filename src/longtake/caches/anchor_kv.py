"""AnchorKV: early frames of a queue's video kept as sinks, against drift."""

from __future__ import annotations

from dataclasses import replace
from typing import final

from typing_extensions import override

from longtake.caches.base import Entry, FeatureCache, Held, Kept, Read, Window
from longtake.caches.next_block_kv import NextBlockKV
from longtake.errors import ConfigurationError
from longtake.task import Task


@final
class AnchorKV(FeatureCache):
    """See the video's first frames in every window, as they were at the window's own step.

    Around another cache of a queue (``NextBlockKV`` or ``SameStepKV``). The keys and values of the
    first ``frames`` latent frames are kept for good, one set for every step, and read in front of
    what the other cache reads, at their true positions. A long video drifts less in colour and
    identity; a window has more keys than the model's clips, and looks back further than they do.
    Memory: ``frames * steps`` latent frames of keys and values, whatever the length.

    Args:
        cache: How tasks see their neighbors.
        frames: Latent frames that are kept, from the video's first one on.
    """

    def __init__(self, cache: FeatureCache | None = None, frames: int = 1) -> None:
        if frames < 1:
            raise ConfigurationError(f"frames is {frames}; at least 1 latent frame is an anchor.")
        self.cache = NextBlockKV() if cache is None else cache
        self.frames = frames

    @override
    def window(self, task: Task, held: Held) -> Window:
        anchors = {
            entry: kept
            for entry, kept in held.items()
            if entry.frame < self.frames and kept.reader is None
        }
        # Neighbors of the first block may be anchors too: the other cache sees them as its own.
        window = self.cache.window(task, held)
        if task.runs:  # a pass for the keys and values alone may fall away
            self._check_others(task, window)
        anew = [
            (Entry(frame, task.index), Kept(run.step))
            for run in task.runs
            for frame in run.frames
            if 0 <= frame < self.frames
        ]
        shared = {entry for entry, _ in anew}
        shown = window.shown
        reads = sorted(
            entry
            for entry, kept in anchors.items()
            if kept.version == task.step and entry.frame not in shown
        )
        return replace(
            window,
            reads_before=(*(Read(entry, entry.frame) for entry in reads), *window.reads_before),
            keeps=(*(keep for keep in window.keeps if keep[0] not in shared), *anew),
            drops=tuple(entry for entry in window.drops if entry not in anchors),
        )

    def _check_others(self, task: Task, window: Window) -> None:
        """Refuse to show anchors alone: a block would not go on where the one before it ends."""
        others = {f for one in task.sees for f in one.frames.each if f >= self.frames}
        if others and not others.intersection(window.shown):
            raise ConfigurationError(
                f"{task.name} may see latent frames {min(others)} to {max(others)}, but "
                f"{type(self.cache).__name__}, which AnchorKV is around, keeps nothing of them for "
                f"it; choose RollingKV with sinks for causal schedulers, AnchorKV for FifoQueue."
            )
