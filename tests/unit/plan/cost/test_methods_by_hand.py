"""Methods' costs against numbers worked out by hand: forwards, keys, makespans, memory.

One token per latent frame, no text, one guidance branch, links and launches free, one operation a
second: what a part costs can be counted on fingers.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from longtake.caches import (
    AnchorKV,
    FeatureCache,
    NextBlockKV,
    NoCache,
    RollingKV,
    SameStepKV,
    peak_held_frames,
)
from longtake.framework.engine.preflight import cache_bytes, held_frames
from longtake.models import BackboneSpec, Compression
from longtake.models.flops import Flops
from longtake.plan.cost.simulator import simulate
from longtake.plan.devices import Hardware
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.search.decoders import seconds_of
from longtake.plan.search.splits import split_layers, split_layers_for_decoding
from longtake.plan.workload import Workload
from longtake.schedulers import (
    Autoregressive,
    BlockScheduler,
    CascadeQueue,
    ContextWindows,
    DiffusionForcing,
    Extend,
    FifoQueue,
    FrameQueue,
    RollingWindow,
)
from longtake.strategies import DualParal

SCHEDULE = DualParal().actions
ONE = (range(1),)
LINEAR = Flops(embed=0.0, layer=1.0, attention=0.0, head=0.0, decode=0.0)
ATTENTION = replace(LINEAR, layer=0.0, attention=1.0)
JOB = Workload(
    spec=BackboneSpec(
        name="fingers",
        channels=3,
        patch=(1, 2, 2),
        heads=4,
        head_dim=8,
        layers=6,
        native_frames=21,
        compression=Compression(temporal=4, spatial=8),
    ),
    scheduler=Autoregressive(3),
    latent_frames=12,
    steps=4,
    cache=RollingKV(6),
    branches=1,
    height=2,
    width=2,
    item_bytes=2,
    flops=LINEAR,
    hardware=Hardware(
        name="fingers",
        matmul=1.0,
        convolution=1.0,
        bandwidth=float("inf"),
        latency=0.0,
        launch=0.0,
        memory=1e9,
    ),
)
SERIAL = Layout.serial(6, 1)
STAGES = Layout(mesh=Mesh(pipe=2), stages=(range(3), range(3, 6)), batches=ONE)


def test_a_causal_block_costs_its_steps_and_a_clean_pass() -> None:
    # 4 blocks of 3 frames: 4 forwards and a clean pass each, but for the last one: 19 of 3 tokens.
    assert simulate(SERIAL, JOB, SCHEDULE).busy == (6 * 19 * 3,)
    # The first block's 5 forwards see 3 keys, all others 6: 3 of their own and 3 kept.
    attended = 5 * 3 * 3 + (5 + 5 + 4) * 3 * 6
    assert simulate(SERIAL, replace(JOB, flops=ATTENTION), SCHEDULE).busy == (6 * attended,)
    decode = replace(JOB, flops=replace(ATTENTION, decode=7.0))
    assert seconds_of(decode) == (12 * 7, 6 * attended)


def test_a_budget_of_all_frames_and_one_with_sinks() -> None:
    # Blocks see 3, 6, 9 and 12 keys; with 7 frames, a sink among them: 3, 6, 7, 7.
    for cache, keys in ((RollingKV(None), (3, 6, 9, 12)), (RollingKV(7, 1), (3, 6, 7, 7))):
        workload = replace(JOB, flops=ATTENTION, cache=cache)
        forwards = zip((5, 5, 5, 4), keys, strict=True)
        attended = sum(count * 3 * seen for count, seen in forwards)
        assert simulate(SERIAL, workload, SCHEDULE).busy == (6 * attended,)


@pytest.mark.parametrize(
    ("scheduler", "cache", "latent_frames", "steps", "makespan"),
    [
        # A forward takes 9 s on each of two stages. Steps wait for each other, 18 s each; a clean
        # pass takes 9 s, in which the second stage ends it while the next block begins.
        (Autoregressive(3), RollingKV(6), 12, 4, 4 * 4 * 18 + 3 * 9),
        # 19 forwards. Iterations 0 and 1 begin at 0 and 2 (in 9 s), then at 4, 7, 11, 15 and 18;
        # the third block's clean pass waits for its last step, and the last forward ends at 21.
        (CascadeQueue(3), RollingKV(6), 12, 4, 21 * 9),
        (CascadeQueue(3, stride=5), RollingKV(6), 12, 4, 4 * 4 * 18 + 3 * 9),
        # 3 windows of 4 frames: 12 s on each stage, the second one 12 s behind.
        (ContextWindows(4, 0, "static"), NoCache(), 12, 5, 5 * (3 + 1) * 12),
        # The clip after the first one forwards 1 frame of that: windows of 4 frames throughout.
        (Extend(4, 1), NoCache(), 10, 5, 3 * 5 * 2 * 12),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BlockScheduler) else None,
)
def test_two_stages(
    scheduler: BlockScheduler, cache: FeatureCache, latent_frames: int, steps: int, makespan: float
) -> None:
    workload = replace(
        JOB, scheduler=scheduler, cache=cache, latent_frames=latent_frames, steps=steps
    )
    simulation = simulate(STAGES, workload, SCHEDULE)
    assert simulation.makespan == makespan
    assert sum(simulation.busy) == simulate(SERIAL, workload, SCHEDULE).makespan


def test_the_first_block_of_context_windows_is_all_of_the_video() -> None:
    workload = replace(
        JOB,
        scheduler=ContextWindows(4, 0, "static"),
        cache=NoCache(),
        flops=replace(LINEAR, decode=7.0),
    )
    simulation = simulate(SERIAL, workload, SCHEDULE)
    # 4 steps of 12 tokens in 6 layers; then a frame is decoded.
    assert simulation.first_block == 4 * 12 * 6 + 7
    assert simulation.makespan == 4 * 12 * 6 + 12 * 7
    causal = simulate(SERIAL, replace(JOB, flops=workload.flops), SCHEDULE)
    assert causal.first_block == 4 * 3 * 6 + 7


def test_a_clean_pass_has_no_head_and_a_warm_up_block_is_not_decoded() -> None:
    # 16 of 19 forwards predict 3 frames; each is 3 tokens in a layer of 1.
    for share, split in ((1.01, [4, 2]), (0.99, [3, 3])):
        head = share * 3 * 19 / (16 * 3)
        stages = split_layers(replace(JOB, flops=replace(LINEAR, head=head)), 2, ONE)
        assert [len(stage) for stage in stages] == split
    # FIFO's queue of 4: 4 forwards of a clip of 2, then 2 of 2 in each of 3 + 4 - 1 iterations.
    queue = replace(JOB, scheduler=FrameQueue(2, 2, lookahead=False), cache=NoCache())
    queue = replace(queue, latent_frames=3, flops=replace(LINEAR, decode=1.0))
    forwards = sum(1 for _ in queue.forwards())
    assert seconds_of(queue) == (3, forwards * 2 * 6)
    # 3 decoded frames over the tasks, against 2 tokens in a layer.
    for share, split in ((1.01, [2, 4]), (0.99, [3, 3])):
        decode = share * 2 * forwards / 3
        dear = replace(queue, flops=replace(LINEAR, decode=decode))
        stages = split_layers_for_decoding(dear, 2, ONE)
        assert [len(stage) for stage in stages] == split


@pytest.mark.parametrize(
    ("scheduler", "cache", "steps", "frames"),
    [
        # Filled by clean passes, 3 frames each, until the block that would overflow it begins.
        (Autoregressive(3), RollingKV(21), 4, 21),
        (Autoregressive(3), RollingKV(21, 3, 24), 4, 24),
        (Autoregressive(1), RollingKV(12), 4, 12),
        (RollingWindow(3), RollingKV(21, 3, 24, moved_sinks=True), 5, 24),
        (ContextWindows(4, 1, "static"), NoCache(), 4, 0),
        (Extend(4, 1), NoCache(), 4, 0),
        (FrameQueue(2, 2), NoCache(), 4, 0),
        (FifoQueue(8, 8), NextBlockKV(), 4, 8),
    ],
)
def test_frames_held_however_long_the_video(
    scheduler: BlockScheduler, cache: FeatureCache, steps: int, frames: int
) -> None:
    workload = replace(JOB, scheduler=scheduler, cache=cache, latent_frames=300, steps=steps)
    assert held_frames(workload) == frames
    if not isinstance(scheduler, ContextWindows):
        assert held_frames(replace(workload, latent_frames=None)) == frames
    # Keys and values of 32 numbers of 2 bytes in 3 layers; under Ulysses those of 2 of 4 heads.
    assert cache_bytes(workload, STAGES, 0) == frames * 2 * 32 * 2 * 3
    shared = Layout(mesh=Mesh(ulysses=2), stages=(range(6),), batches=ONE)
    assert cache_bytes(workload, shared, 1) == frames * 2 * 16 * 2 * 6


@pytest.mark.parametrize(
    ("scheduler", "cache", "steps"),
    [
        (Autoregressive(3), RollingKV(21, 6), 4),
        (Autoregressive(3), RollingKV(None), 4),
        (CascadeQueue(3), RollingKV(21), 4),
        (CascadeQueue(3, 2), RollingKV(21, 3, 30), 4),
        (DiffusionForcing(5, 5, 25), RollingKV(25), 20),
        (RollingWindow(3), RollingKV(21, 3, 24), 5),
        (FifoQueue(8, 8), SameStepKV(), 10),
        (FifoQueue(8, 8), AnchorKV(SameStepKV(), frames=12), 10),
    ],
)
@pytest.mark.parametrize("changes", [(), (40, 110)])
def test_what_is_played_holds_as_much_as_all(
    scheduler: BlockScheduler, cache: FeatureCache, steps: int, changes: tuple[int, ...]
) -> None:
    workload = replace(
        JOB,
        scheduler=scheduler,
        cache=cache,
        latent_frames=200,
        steps=steps,
        prompt_changes=changes,
    )
    assert held_frames(workload) == peak_held_frames(cache, workload.tasks())


def test_an_endless_video_that_keeps_everything_is_played_for_so_many_blocks() -> None:
    workload = replace(JOB, latent_frames=None, cache=RollingKV(None))
    assert held_frames(workload) == 127 * 3  # the last one of 128 has no clean pass
