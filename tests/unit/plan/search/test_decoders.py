"""Decode ranks in plans: how many, what they do, how long it takes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from tests.unit.plan.cost.test_simulator import LINEAR, TOGETHER, layout_of, workload_of

from longtake.errors import ConfigurationError
from longtake.plan.check.validator import validate
from longtake.plan.cost.simulator import decode_seconds, simulate, timeline
from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import Decode, Kind, Send
from longtake.plan.ir.run import compile_run
from longtake.plan.layout import Layout
from longtake.plan.search.decoders import balanced, choose_decoders, seconds_of
from longtake.plan.search.layouts import choose
from longtake.plan.search.meshes import Asked
from longtake.plan.workload import Workload
from longtake.strategies import DualParal
from longtake.strategies.dual_paral import ring_schedule

SCHEDULE = DualParal().actions
CLOCK = DualParal().clock
ONE_BY_ONE = Asked(cfg=1, together=True)


def decoding_job(
    seconds: float, requests: int = 1, latent_frames: int = 96, steps: int = 4
) -> Workload:
    """A latent frame takes so long to decode, and 32 layers times 2 branches to denoise a step."""
    workload = workload_of(latent_frames, steps=steps)
    return replace(workload, flops=replace(LINEAR, decode=seconds), requests=requests)


def lay_out(workload: Workload, ranks: int, asked: Asked = ONE_BY_ONE) -> Layout:
    return choose(ranks, workload, CLOCK, asked).best.layout


def choose_for(workload: Workload, ranks: int) -> Layout:
    return choose_decoders(ranks, workload, "auto", partial(lay_out, workload), CLOCK)


def test_the_balance_of_the_paper() -> None:
    assert balanced(8, 10.0, 30.0) == pytest.approx(2.0)
    assert balanced(8, 0.0, 0.0) == 0.0
    workload = decoding_job(100.0, latent_frames=24)
    # A block of 16 frames and one that comes with 8 before it: 2 windows of 16, 4 steps.
    assert seconds_of(workload) == pytest.approx((24 * 100.0, 2 * 16 * 64 * 4))


@pytest.mark.parametrize(
    ("seconds", "requests", "ranks", "decoders"),
    [
        (1.0, 1, 2, 0),  # nothing to win
        (500.0, 1, 2, 1),  # decoding takes as long as denoising
        (500.0, 8, 8, 4),
        (500.0, 1, 8, 1),  # one video is decoded by one rank
        (160.0, 8, 8, 2),
    ],
)
def test_auto_takes_what_is_fastest(
    seconds: float, requests: int, ranks: int, decoders: int
) -> None:
    workload = decoding_job(seconds, requests)
    layout = choose_for(workload, ranks)
    assert layout.decoders == decoders
    assert layout.size == ranks
    none = simulate(lay_out(workload, ranks), workload, SCHEDULE).makespan
    assert simulate(layout, workload, SCHEDULE).makespan <= none


def test_decode_ranks_share_the_tiles_of_one_video() -> None:
    workload = replace(decoding_job(900.0), tiles=6)
    layout = choose_for(workload, 8)
    assert layout.tiled
    assert 2 <= layout.decoders <= 6
    two, four = (replace(layout, decoders=count) for count in (2, 4))
    # 3 of 6 tiles, and 2 of 6.
    assert decode_seconds(two, workload) == pytest.approx(450.0)
    assert decode_seconds(four, workload) == pytest.approx(300.0)
    streams = [list(stream) for stream in compile_run(layout, workload, SCHEDULE)]
    validate(streams, layout)


def test_given_degrees_leave_no_rank_to_decode() -> None:
    workload = decoding_job(500.0)
    asked = replace(ONE_BY_ONE, stages=2)
    layout = choose_decoders(2, workload, "auto", lambda n: lay_out(workload, n, asked), CLOCK)
    assert (layout.decoders, layout.mesh.pipe) == (0, 2)
    asked = replace(ONE_BY_ONE, stages=4)
    with pytest.raises(ConfigurationError, match="stages 4 with cfg 1 is impossible on 2"):
        choose_decoders(2, workload, "auto", lambda n: lay_out(workload, n, asked), CLOCK)


@pytest.mark.parametrize(
    ("decoders", "ranks", "requests", "message"),
    [
        (2, 2, 5, "decode_devices is 2 for 5 videos on 2 devices: .*; possible: 0 or 1."),
        (2, 4, 1, "decode_devices is 2 for 1 video on 4 devices: .*; possible: 0 or 1."),
        (-1, 8, 4, "decode_devices is -1 .*possible: 0 or 4, or between."),
        (1, 1, 1, "decode_devices is 1 for 1 video on 1 device: .*possible: 0."),
    ],
)
def test_impossible_numbers_are_refused(
    decoders: int, ranks: int, requests: int, message: str
) -> None:
    workload = decoding_job(10.0, requests)
    with pytest.raises(ConfigurationError, match=message):
        choose_decoders(ranks, workload, decoders, partial(lay_out, workload), CLOCK)


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_plan_of_a_decode_group_is_valid(ranks: int) -> None:
    workload = decoding_job(10.0)
    layout = replace(lay_out(workload, ranks), decoders=1)
    streams = [list(stream) for stream in compile_run(layout, workload, SCHEDULE)]
    validate(streams, layout)
    decoded = [action.block for action in streams[-1] if isinstance(action, Decode)]
    cut = list(workload.scheduler.blocks(workload.latent_frames))
    assert decoded == [block for block, frames in enumerate(cut) for _ in range(len(frames))]
    dropped = [
        action
        for action in streams[-1]
        if not (isinstance(action, Decode) and action.block == 1 and action.first == 0)
    ]
    with pytest.raises(PlanError, match=r"block 1: .*: 0 of 8 are decoded"):
        validate([*streams[:-1], dropped], layout)
    mesh_only = [list(ring_schedule(workload.forwards(), layout, rank)) for rank in range(ranks)]
    with pytest.raises(PlanError, match="have not been collected"):
        validate([*mesh_only, []], layout)


def test_requests_take_turns_on_the_decode_ranks() -> None:
    workload = decoding_job(10.0, requests=3)
    layout = replace(lay_out(workload, 1), decoders=2)
    streams = [list(stream) for stream in compile_run(layout, workload, SCHEDULE)]
    blocks = len(list(workload.scheduler.blocks(workload.latent_frames)))
    frames = workload.latent_frames or 0
    counts = [sum(isinstance(action, Decode) for action in stream) for stream in streams]
    assert counts == [0, 2 * frames, frames]
    sent = [a.target for a in streams[0] if isinstance(a, Send) and a.message.kind is Kind.BLOCK]
    assert sent == [1] * blocks + [2] * blocks + [1] * blocks


def test_a_video_is_decoded_while_it_is_denoised() -> None:
    workload = decoding_job(40.0)
    serial = layout_of(1, 1, TOGETHER)
    own, apart = (
        simulate(serial, workload, SCHEDULE),
        simulate(replace(serial, decoders=1), workload, SCHEDULE),
    )
    last = list(workload.scheduler.blocks(workload.latent_frames))[-1]
    decode, denoise = seconds_of(workload)
    assert own.makespan == pytest.approx(denoise + decode)
    # All but the last block is decoded meanwhile.
    assert apart.makespan == pytest.approx(denoise + len(last) * 40.0)
    assert apart.first_block < own.makespan
    assert apart.busy == pytest.approx((denoise, decode))


def test_requests_are_denoised_while_the_one_before_is_decoded() -> None:
    workload = decoding_job(1000.0, requests=3)
    layout = replace(layout_of(1, 1, TOGETHER), decoders=1)
    decode, denoise = seconds_of(workload)
    assert decode > denoise
    starts = [
        box.start
        for box in timeline(layout, workload, compile_run(layout, workload, SCHEDULE))
        if isinstance(box.action, Decode) and (box.action.block, box.action.first) == (0, 0)
    ]
    assert len(starts) == 3
    one = replace(workload, requests=1)
    alone = timeline(layout, one, compile_run(layout, one, SCHEDULE))
    first = next(box.start for box in alone if isinstance(box.action, Decode))
    assert starts[0] == pytest.approx(first), "later videos do not hold up the first one"
    # The decode rank never waits once it has begun.
    assert simulate(layout, workload, SCHEDULE).makespan == pytest.approx(starts[0] + 3 * decode)
    inline = replace(layout, decoders=0)
    assert simulate(inline, workload, SCHEDULE).makespan == pytest.approx(3 * (decode + denoise))
