"""Tasks in flight: counted by hand for every schedule, and what is chosen for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from longtake.caches import FeatureCache, NextBlockKV, NoCache, RollingKV, SameStepKV
from longtake.plan.cost.rundown import Rundown, rundown
from longtake.plan.search.in_flight import of_workload, tasks_in_flight
from longtake.schedulers import (
    Autoregressive,
    BlockScheduler,
    CascadeQueue,
    ContextWindows,
    DiffusionForcing,
    Extend,
    FifoQueue,
    FrameQueue,
    FullSequence,
    RollingWindow,
)
from longtake.strategies.automatic import Automatic, strategy_for
from longtake.strategies.dual_paral import DualParal
from longtake.strategies.sequence_parallel import SequenceParallel
from longtake.testing.tiny.base import TinyCase


def walked(scheduler: BlockScheduler, cache: FeatureCache, frames: int, steps: int) -> Rundown:
    workload = replace(TinyCase().workload, scheduler=scheduler, cache=cache)
    return rundown(replace(workload, latent_frames=frames, steps=steps))


@pytest.mark.parametrize(
    ("scheduler", "cache", "frames", "steps", "tasks", "time"),
    [
        # Step after step of one block.
        (FullSequence(), NoCache(), 9, 6, 6, 6),
        # Clip after clip: the next one forwards the finished end of the last one.
        (Extend(4, 1), NoCache(), 10, 5, 15, 15),
        # Blocks of 4, 2 and 2 frames; in each of 5 + 2 iterations those in flight run together.
        (FifoQueue(2, 2), NextBlockKV(), 8, 5, 15, 7),
        # Its neighbors are read as kept keys: a block's first step runs beside the last iteration.
        (FifoQueue(2, 2), SameStepKV(), 8, 5, 15, 6),
        (FifoQueue(2, 2, 3), NextBlockKV(), 8, 5, 15, 11),
        # Beside the next block's first step runs the clean pass: 3 blocks of 4 steps and 2 passes.
        (Autoregressive(2), RollingKV(6), 6, 4, 14, 12),
        # With recache it waits for nothing either: it is put in before the third block.
        (Autoregressive(2), RollingKV(None), 4, 1, 3, 2),
        # Iterations 0 to 5: 4 + 2 of them, the clean passes of blocks 0 and 1 in the last two.
        (CascadeQueue(2), RollingKV(6), 6, 4, 14, 6),
        (CascadeQueue(2, stride=5), RollingKV(6), 6, 4, 14, 12),
        # Windows 0 to 5 each wait for the last one, the two clean passes for nobody's sake.
        (RollingWindow(2), RollingKV(12), 6, 4, 8, 6),
        # 3 windows of 4 frames, 1 shared, at each of 5 steps: independent of each other.
        (ContextWindows(4, 1, "static"), NoCache(), 10, 5, 15, 5),
        (ContextWindows(10, 1, "static"), NoCache(), 10, 5, 5, 5),
        # The clip's 4 steps, then 4 + 4 - 1 iterations of 4 forwards each.
        (FrameQueue(2, 2), NoCache(), 5, 4, 4 + 7 * 4, 4 + 7),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BlockScheduler) else None,
)
def test_tasks_over_the_longest_chain(
    scheduler: BlockScheduler,
    cache: FeatureCache,
    frames: int,
    steps: int,
    tasks: int,
    time: int,
) -> None:
    found = walked(scheduler, cache, frames, steps)
    assert len(found.steps) == tasks
    assert tasks_in_flight(found) == pytest.approx(tasks / time)


def test_entries_make_nobody_wait_but_latents_do() -> None:
    """Diffusion forcing: kept keys let the next block follow, recomputed frames do not."""
    kept = tasks_in_flight(walked(DiffusionForcing(2, 2, 6), RollingKV(6), 6, 4))
    recomputed = tasks_in_flight(walked(DiffusionForcing(2, 2, 6), NoCache(), 6, 4))
    assert kept > 1.5
    assert recomputed < kept


@pytest.mark.parametrize(
    ("scheduler", "cache", "frames", "steps", "strategy"),
    [
        (FifoQueue(8, 8), NextBlockKV(), 257, 50, DualParal),
        (FifoQueue(8, 8), NextBlockKV(), None, 50, DualParal),
        (FullSequence(), NextBlockKV(), 21, 50, SequenceParallel),
        (Autoregressive(3), RollingKV(21), None, 4, SequenceParallel),
        (CascadeQueue(3), RollingKV(21), None, 4, DualParal),
        (CascadeQueue(3, stride=5), RollingKV(21), None, 4, SequenceParallel),
        (ContextWindows(21, 7), NoCache(), 81, 20, DualParal),
        (ContextWindows(21, 7), NoCache(), 21, 20, SequenceParallel),
        (FrameQueue(16, 4), NoCache(), None, 64, DualParal),
    ],
)
def test_the_strategy_of_those_who_give_none(
    scheduler: BlockScheduler,
    cache: FeatureCache,
    frames: int | None,
    steps: int,
    strategy: type,
) -> None:
    workload = replace(
        TinyCase().workload, scheduler=scheduler, cache=cache, latent_frames=frames, steps=steps
    )
    assert type(strategy_for(workload)) is strategy


@pytest.mark.parametrize(("frames", "stages"), [(8, 2), (4, 1)])
def test_its_layout_is_taken(frames: int, stages: int) -> None:
    scheduler = ContextWindows(4, 0, "static")
    workload = replace(
        TinyCase().workload, scheduler=scheduler, cache=NoCache(), latent_frames=frames, branches=1
    )
    layout = Automatic().layout(2, workload)
    assert (layout.mesh.pipe, layout.mesh.size) == (stages, 2)
    assert layout in Automatic().alternatives(2, workload)


def test_enough_blocks_are_played_to_fill_the_stages() -> None:
    workload = replace(TinyCase().workload, scheduler=FifoQueue(8, 8), latent_frames=None, steps=10)
    # 32 and 48 blocks of 10 steps, each in 9 iterations more than it has blocks.
    assert of_workload(workload, 2) == pytest.approx(32 * 10 / 41)
    assert of_workload(workload, 12) == pytest.approx(48 * 10 / 57)
