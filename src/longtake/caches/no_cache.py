"""NoCache: no feature outlives its task, both contexts are recomputed."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from longtake.caches.base import FeatureCache, Window
from longtake.task import FrameRange, Task


@final
class NoCache(FeatureCache):
    """Recompute both contexts from the neighbors' latents: the slow reference.

    The window is context + own + context frames, all passed through every layer with the task's
    own timestep; a model that takes one per frame is told each frame's own. A block that has not
    entered yet has no latents to see.
    """

    @override
    def window(self, task: Task) -> Window:
        start, stop = task.frames.start, task.frames.stop
        if task.before is not None:
            start = task.before.frames.start
        if task.after is not None and task.after.steps_done > 0:
            stop = task.after.frames.stop
        return Window(frames=FrameRange(start, stop), own=task.frames)
