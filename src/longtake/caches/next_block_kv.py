"""NextBlockKV: DualParal's feature cache."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from longtake.caches.base import FeatureCache, FeatureKey, Part, Window
from longtake.task import FrameRange, Task


@final
class NextBlockKV(FeatureCache):
    """See the following block through its keys and values of this iteration (DualParal).

    The context after is read from the following block, which has just run in the same iteration;
    the context before is recomputed from the preceding block's latents, put in front of the
    window and processed with the task's own timestep, as the paper does, or with its own where the
    model takes a timestep per frame. With two experts (Wan 2.2), at the one step where a block has
    crossed the boundary and the next has not, the keys and values read are those of the other
    expert, as in the published code.
    """

    @override
    def window(self, task: Task) -> Window:
        start = task.frames.start if task.before is None else task.before.frames.start
        return Window(
            frames=FrameRange(start, task.frames.stop),
            own=task.frames,
            reads_after=head_of_next(task),
            keeps=head_for_previous(task),
        )


def head_of_next(task: Task) -> FeatureKey | None:
    """Return the entry that the following block left for ``task`` in this iteration, if any."""
    after = task.after
    if after is None or after.runs_step is None or not len(after.frames):
        return None
    return FeatureKey(block=after.block, step=after.runs_step, part=Part.HEAD)


def head_for_previous(task: Task) -> tuple[tuple[FeatureKey, FrameRange], ...]:
    """Return the entry that ``task`` leaves for the preceding block, which runs after it."""
    before = task.before
    if before is None or before.runs_step is None or not len(before.sees):
        return ()
    return ((FeatureKey(block=task.block, step=task.step, part=Part.HEAD), before.sees),)
