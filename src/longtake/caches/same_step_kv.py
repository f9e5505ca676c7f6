"""SameStepKV: no context is recomputed, every feature is at its own noise level."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from longtake.caches.base import FeatureCache, FeatureKey, Part, Window
from longtake.caches.next_block_kv import head_for_previous, head_of_next
from longtake.task import FrameRange, Task


@final
class SameStepKV(FeatureCache):
    """See both neighbors through kept keys and values; recompute neither.

    In a queue, block ``b - 1`` ran the *same step* ``stride`` iterations before block ``b`` runs
    it. The keys and values of its last frames are kept that long, so the context before needs no
    forward of its own: queries shrink from ``context + block`` to ``block`` frames while keys
    stay at ``block + 2 context``. With ``b`` own frames, ``c`` context frames, ``t`` tokens per
    frame, model dim ``M`` and ``w`` weight multiplications per token and layer, a layer costs

        linear:     2 w t b         instead of   2 w t (b + c)
        attention:  4 M t^2 b (b + 2c)   instead of   4 M t^2 (b + c) (b + 2c)

    that is ``b / (b + c)`` of NextBlockKV's work: half of it at ``b = c``. The price is memory:
    keys and values of ``context`` frames of every block in flight. It is a different
    approximation from NextBlockKV's (the context's features come from the context's own window,
    and at the task's noise level), so its quality is measured: see ``docs/caches.md``.
    """

    @override
    def window(self, task: Task) -> Window:
        before, reads_before = task.before, None
        if before is not None and len(before.frames):
            reads_before = FeatureKey(block=before.block, step=task.step, part=Part.TAIL)
        return Window(
            frames=task.frames,
            own=task.frames,
            reads_before=reads_before,
            reads_after=head_of_next(task),
            keeps=head_for_previous(task) + _tail_for_next(task),
        )


def _tail_for_next(task: Task) -> tuple[tuple[FeatureKey, FrameRange], ...]:
    after = task.after
    if after is None or not len(after.sees):
        return ()
    return ((FeatureKey(block=task.block, step=task.step, part=Part.TAIL), after.sees),)
