"""The simulator: idle shares of DualParal's paper, messages on a clock, a thousand ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, product

import pytest

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
from longtake.models import BackboneSpec, Compression
from longtake.models.flops import Flops
from longtake.plan.check.replay import Link
from longtake.plan.cost.simulator import bounded, message_bytes, simulate, timeline
from longtake.plan.cost.timeline import Box
from longtake.plan.devices import Hardware
from longtake.plan.ir.actions import Compute, Decode, Kind, Message
from longtake.plan.ir.run import compile_run
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.search.splits import balance, stages_of
from longtake.plan.workload import Workload
from longtake.schedulers import FifoQueue
from longtake.strategies import DualParal

SCHEDULE = DualParal().actions


def timeline_of(layout: Layout, workload: Workload) -> Iterator[Box]:
    return timeline(layout, workload, compile_run(layout, workload, SCHEDULE))


TOGETHER, APART = (range(2),), (range(1), range(1, 2))
FREE = Hardware(
    name="free links",
    matmul=1.0,
    convolution=1.0,
    bandwidth=float("inf"),
    latency=0.0,
    launch=0.0,
    memory=1.0,
)
LINEAR = Flops(embed=0.0, layer=1.0, attention=0.0, head=0.0, decode=0.0)


def workload_of(latent_frames: int, steps: int = 50, layers: int = 32) -> Workload:
    """One operation per layer, query and branch, one operation per second, one token per frame."""
    spec = BackboneSpec(
        name="even",
        channels=3,
        patch=(1, 2, 2),
        heads=2,
        head_dim=8,
        layers=layers,
        native_frames=21,
        compression=Compression(temporal=4, spatial=8),
    )
    return Workload(
        spec=spec,
        scheduler=FifoQueue(8, 8),
        latent_frames=latent_frames,
        steps=steps,
        cache=NextBlockKV(),
        branches=2,
        height=2,
        width=2,
        item_bytes=2,
        flops=LINEAR,
        hardware=FREE,
    )


def layout_of(cfg: int, pipe: int, batches: tuple[range, ...], layers: int = 32) -> Layout:
    stages = stages_of(balance(layers, pipe, 1.0, 0.0, 0.0))
    return Layout(mesh=Mesh(cfg=cfg, pipe=pipe), stages=stages, batches=batches)


@pytest.mark.parametrize(
    ("latent_frames", "layout", "idle"),
    [
        # 1,025 video frames are 257 latent ones: 32 blocks, the first one of 16 and the last of 1.
        # Together comes to (N^2 - 1) / (N^2 - 1 + T B) = 3.8 %, as a block waits for its
        # neighbor's newest step; the paper's formula, (N^2 - N - 1) / ..., to 3.3 %.
        (257, layout_of(1, 8, TOGETHER), 0.038),
        (257, layout_of(1, 8, APART), 0.012),
        (257, layout_of(2, 4, APART), 0.009),
        # 5 blocks on 8 devices.
        (48, layout_of(1, 8, TOGETHER), 0.480),
        (48, layout_of(1, 8, APART), 0.144),
        (48, layout_of(2, 4, APART), 0.057),
    ],
)
def test_idle_shares_of_the_paper(latent_frames: int, layout: Layout, idle: float) -> None:
    assert simulate(layout, workload_of(latent_frames), SCHEDULE).idle == pytest.approx(
        idle, abs=1e-3
    )


def test_one_device_never_waits() -> None:
    workload = replace(workload_of(30, steps=2), flops=replace(LINEAR, decode=10.0))
    simulation = simulate(layout_of(1, 1, TOGETHER), workload, SCHEDULE)
    assert simulation.idle == pytest.approx(0.0)
    # Windows of 16, 16 and 14 frames; 32 layers, 2 branches, 2 steps; and 30 frames decoded.
    assert simulation.makespan == pytest.approx((16 + 16 + 14) * 32 * 2 * 2 + 30 * 10)
    # Blocks 0, 1, 0 have run when the first one is decoded.
    assert simulation.first_block == pytest.approx(3 * 16 * 32 * 2 + 10), "its first frame"
    assert simulation.link_bytes == {}


def test_every_part_of_the_model_has_its_price() -> None:
    flops = Flops(embed=3.0, layer=5.0, attention=7.0, head=11.0, decode=0.0)
    workload = replace(
        workload_of(24, steps=1), flops=flops, hardware=replace(FREE, launch=13.0, matmul=2.0)
    )
    first, second = (
        [box for box in timeline_of(layout_of(1, 2, APART), workload) if box.rank == rank]
        for rank in (0, 1)
    )
    took = [
        [box.stop - box.start for box in boxes if isinstance(box.action, Compute)]
        for boxes in (first, second)
    ]
    # Two blocks, each branch by itself: 16 queries, 16 keys (nothing follows: no context).
    layers = 16 * (5 * 16 + 7 * 16 * 16)
    assert took[0] == pytest.approx([13 + (layers + 3 * 16) / 2] * 4)
    assert took[1] == pytest.approx([13 + (layers + 11 * own) / 2 for own in (16, 16, 8, 8)])


def starts(layout: Layout, workload: Workload, rank: int) -> list[float]:
    """Return when a rank begins to compute its micro-batchs."""
    boxes = timeline_of(layout, workload)
    return [box.start for box in boxes if box.rank == rank and isinstance(box.action, Compute)]


def test_messages_take_their_time_one_after_another() -> None:
    hardware = replace(FREE, bandwidth=16.0, latency=100.0)
    workload = replace(workload_of(16, steps=1), hardware=hardware)
    layout = layout_of(1, 2, APART)
    hop = Message(kind=Kind.HOP, index=0, block=0, step=0, branches=range(1), frames=16)
    assert message_bytes(workload, hop) == 16 * 16 * 2
    compute, transfer = 16 * 16, 16 * 16 * 2 / 16
    assert starts(layout, workload, 0) == [0, compute], "a send is not waited for"
    assert starts(layout, workload, 1) == [compute + transfer + 100, 2 * compute + transfer + 100]

    slow = replace(workload, hardware=replace(hardware, bandwidth=0.5))
    transfer = 16 * 16 * 2 * 2
    assert starts(layout, slow, 1) == [
        compute + transfer + 100,
        compute + 2 * transfer + 100,
    ], "the second message waits for the link"


def test_bytes_of_every_kind_of_message() -> None:
    workload, layout = workload_of(16, steps=1), layout_of(2, 2, APART)
    simulation = simulate(layout, workload, SCHEDULE)
    picture = 3 * 16 * 2 * 2 * 4
    assert simulation.link_bytes == {
        Link(0, 2, Kind.LATENTS): picture,
        Link(0, 1, Kind.HOP): 16 * 16 * 2,
        Link(2, 3, Kind.HOP): 16 * 16 * 2,
        Link(3, 1, Kind.PREDICTION): picture,
        Link(1, 0, Kind.GUIDED): picture,
    }
    assert simulation.sent_bytes == (picture + 512, picture, 512, picture)


def test_busy_is_what_was_done() -> None:
    caches: list[FeatureCache] = [NoCache(), NextBlockKV(), SameStepKV()]
    flops = Flops(embed=3.0, layer=5.0, attention=0.1, head=11.0, decode=50.0)
    hardware = replace(FREE, bandwidth=9.0, latency=7.0, launch=2.0)
    layouts = [layout_of(1, 3, TOGETHER), layout_of(1, 4, APART), layout_of(2, 2, APART)]
    for layout, cache, stride, frames in product(layouts, caches, (1, 3), (10, 49)):
        workload = replace(
            workload_of(frames, steps=5),
            scheduler=FifoQueue(8, 4, stride),
            cache=cache,
            flops=flops,
            hardware=hardware,
        )
        simulation = simulate(layout, workload, SCHEDULE)
        busy = [0.0] * layout.mesh.size
        clocks = [0.0] * layout.mesh.size
        for box in timeline_of(layout, workload):
            assert box.start == clocks[box.rank], "a rank does one thing after another"
            clocks[box.rank] = box.stop
            if isinstance(box.action, Compute | Decode):
                busy[box.rank] += box.stop - box.start
        assert simulation.busy == pytest.approx(busy)
        assert simulation.makespan == max(clocks)
        # Whatever the layout, all layers' work is done once; only launches and embeddings repeat.
        alone = replace(
            workload, flops=replace(flops, embed=0.0), hardware=replace(hardware, launch=0.0)
        )
        serial = simulate(layout_of(1, 1, TOGETHER), alone, SCHEDULE)
        assert sum(simulate(layout, alone, SCHEDULE).busy) == pytest.approx(sum(serial.busy))


def test_a_thousand_ranks_in_one_process() -> None:
    layout = layout_of(2, 500, APART, layers=500)
    simulation = simulate(layout, workload_of(24, steps=3, layers=500), SCHEDULE)
    assert len(simulation.busy) == 1000
    # 2 blocks, 3 steps: block 1's step s follows block 0's step s, which follows block 1's s - 1.
    assert 0.99 < simulation.idle < 1


def test_an_endless_video_is_simulated_for_its_first_blocks() -> None:
    endless = replace(workload_of(16), latent_frames=None)
    assert bounded(endless).latent_frames == 8 + 32 * 8
    assert bounded(endless, 5).latent_frames == 8 + 5 * 8
    short = workload_of(257)
    assert bounded(short) is short
    boxes = timeline_of(layout_of(1, 2, TOGETHER), replace(endless, steps=3))
    decoded = (box.action for box in boxes if isinstance(box.action, Decode) and box.action.frames)
    frames: Counter[int] = Counter()
    for piece in islice(decoded, 16 + 7 * 8):
        frames[piece.block] += piece.frames
    # The first block is longer, by the context.
    assert [frames[block] for block in range(8)] == [16] + [8] * 7
