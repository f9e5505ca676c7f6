"""SameStepKV: no context is recomputed, every feature is at its own noise level."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from longtake.caches.base import FeatureCache, Held, Read, Window, positions_of
from longtake.caches.next_block_kv import after_of, kept
from longtake.task import Task


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
    def window(self, task: Task, held: Held) -> Window:
        after, wanted = after_of(task, held), set(task.seen_before)
        before = sorted(
            entry
            for entry, one in held.items()
            if entry.frame in wanted and one.version == task.step
        )
        # The older block reads first, in the iteration that leaves the entry, the newer one last.
        drops = [read.entry for read in after if held[read.entry].reader == task.block]
        return Window(
            frames=task.own,
            positions=positions_of(task, task.own),
            reads_before=tuple(Read(entry, entry.frame) for entry in before),
            reads_after=after,
            keeps=kept(task),
            drops=(*before, *drops),
        )
