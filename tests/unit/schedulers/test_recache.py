"""Recaches after a change of the prompt forward nothing that has been forgotten."""

from __future__ import annotations

from itertools import product

import pytest

from longtake.caches import RollingKV, forwards
from longtake.schedulers import Autoregressive, BlockScheduler, CascadeQueue
from longtake.task import Video

CACHES = [
    RollingKV(5, 1),
    RollingKV(6, 0, keep_sinks=False),
    RollingKV(7, 2, 9),
    RollingKV(None),
]
SCHEDULERS: list[BlockScheduler] = [
    *(Autoregressive(block) for block in (1, 2, 3)),
    *(CascadeQueue(block, stride) for block, stride in product((1, 2, 3), (1, 2, 5))),
]


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("changes", [(3,), (9,), (9, 15)])
def test_what_a_recache_forwards_has_been_promised(changes: tuple[int, ...], steps: int) -> None:
    for scheduler, cache in product(SCHEDULERS, CACHES):
        promised: set[int] | None = None
        finished: set[int] = set()
        recaches = 0
        for forward in forwards(scheduler.tasks(Video(20, steps, changes)), cache):
            old = finished.intersection(forward.window.frames).difference(forward.task.own)
            where = f"{type(scheduler).__name__}, {cache}: task {forward.task.index}"
            assert promised is None or old <= promised, where
            recaches += any(leave.anew for leave in forward.task.leaves)
            finished.update(f for run in forward.task.finished for f in run.block_frames.each)
            promised = {frame for span in forward.window.latents for frame in span.each}
        assert recaches or isinstance(scheduler, CascadeQueue), "a block's start is not recached"
