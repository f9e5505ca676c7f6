"""NoCache: no feature outlives its task, both contexts are recomputed."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from longtake.caches.base import FeatureCache, Held, Window, positions_of
from longtake.task import Task


@final
class NoCache(FeatureCache):
    """Recompute both contexts from the neighbors' latents: the slow reference.

    Everything that a task may see passes through every layer with it: with a queue, context + own
    + context frames, all with the task's own timestep; a model that takes one per frame is told
    each frame's own. A pass for keys and values alone falls away.
    """

    @override
    def window(self, task: Task, held: Held) -> Window:
        if not task.runs:  # a pass for the keys and values alone, which nobody would keep
            return Window(frames=(), positions=(), latents=task.later)
        first = min(task.own)
        after = [f for seen in task.sees if seen.frames.start >= first for f in seen.frames.each]
        frames = (*task.seen_before, *task.own, *after)
        return Window(frames=frames, positions=positions_of(task, frames), latents=task.later)
