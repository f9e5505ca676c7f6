"""Cost figures against numbers worked out by hand: a formula compared with itself notices nothing.

All figures come from the small model and the slow device below. A window's tokens are its latent
frames times 6 (4 x 6 latent positions, patches of 2 x 2), and 5 of text.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from longtake.caches import NextBlockKV
from longtake.models import BackboneSpec, Compression
from longtake.models.flops import Flops
from longtake.plan.check.replay import Link
from longtake.plan.cost.sequence import (
    attention_share,
    exchange_seconds,
    layer_bytes,
    packed_bytes,
    ring_bytes,
    ulysses_bytes,
)
from longtake.plan.cost.simulator import (
    Simulation,
    bounded,
    compute_seconds,
    decode_seconds,
    message_bytes,
    simulate,
    timeline,
)
from longtake.plan.cost.timeline import Box
from longtake.plan.devices import Hardware
from longtake.plan.ir.actions import (
    Advance,
    Compute,
    Decode,
    Emit,
    EntrySpan,
    Finish,
    Kind,
    Message,
)
from longtake.plan.ir.run import compile_run
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.workload import Workload
from longtake.schedulers import FifoQueue
from longtake.strategies import DualParal
from longtake.task import FrameRange

SCHEDULE = DualParal().actions
CLOCK = DualParal().clock

TOGETHER, APART = (range(2),), (range(1), range(1, 2))
SPEC = BackboneSpec(
    name="small",
    channels=3,
    patch=(1, 2, 2),
    heads=4,
    head_dim=8,
    layers=6,
    native_frames=21,
    compression=Compression(temporal=4, spatial=8),
    text_tokens=5,
)
SLOW = Hardware(
    name="slow",
    matmul=100.0,
    convolution=50.0,
    bandwidth=1000.0,
    latency=0.25,
    launch=0.5,
    memory=1000.0,
    hiding=0.5,
)
JOB = Workload(
    spec=SPEC,
    scheduler=FifoQueue(2, 1),
    latent_frames=3,
    steps=2,
    cache=NextBlockKV(),
    branches=2,
    height=4,
    width=6,
    item_bytes=2,
    flops=Flops(embed=7.0, layer=11.0, attention=13.0, head=17.0, decode=19.0),
    hardware=SLOW,
)
# 3 frames of queries (23 tokens), 2 more of keys (35 tokens), 1 that is predicted.
ACTION = Compute(
    index=1,
    block=1,
    step=0,
    branches=range(2),
    layers=range(2),
    frames=3,
    own=1,
    reads=(EntrySpan(FrameRange(9, 11), 0),),
    keeps=(),
)
SERIAL = Layout.serial(6, 2)


def shared(ring: int = 1, ulysses: int = 1, chunks: int = 1) -> Layout:
    """Return one stage of everything, its tokens shared."""
    mesh = Mesh(ring=ring, ulysses=ulysses)
    return Layout(mesh=mesh, stages=(range(6),), batches=TOGETHER, chunks=chunks)


def staged(workload: Workload, batches: tuple[range, ...] = TOGETHER) -> Layout:
    """Return two stages of half the layers each."""
    half = workload.spec.layers // 2
    stages = (range(half), range(half, workload.spec.layers))
    return Layout(mesh=Mesh(pipe=2), stages=stages, batches=batches)


def simulated(layout: Layout, workload: Workload) -> Simulation:
    return simulate(layout, workload, SCHEDULE)


def boxes_of(layout: Layout, workload: Workload) -> list[Box]:
    return list(timeline(layout, workload, compile_run(layout, workload, SCHEDULE)))


def test_tokens_of_a_window() -> None:
    assert JOB.tokens_per_frame == 2 * 3
    assert JOB.window_tokens(3) == 18 + 5
    assert SPEC.model_dim == 32


def test_a_stage_takes_its_layers_and_what_it_has_beside_them() -> None:
    # Linear: 2 branches x 11 x 23 = 506. Attention: 2 x 13 x 23 x 35 = 20,930.
    # A layer: 21,436 / 100 = 214.36 s, two of them 428.72 s, and the launch 0.5 s.
    middle = replace(ACTION, layers=range(2, 4))
    assert compute_seconds(SERIAL, JOB, middle) == pytest.approx(429.22)
    # Embedding: 7 x 18 video tokens, once for the batch: 1.26 s.
    assert compute_seconds(SERIAL, JOB, ACTION) == pytest.approx(430.48)
    # The head: 17 x 6 tokens of the own frame x 2 branches: 2.04 s.
    last = replace(ACTION, layers=range(4, 6))
    assert compute_seconds(SERIAL, JOB, last) == pytest.approx(431.26)
    whole = replace(ACTION, layers=range(6))
    assert compute_seconds(SERIAL, JOB, whole) == pytest.approx(0.5 + 6 * 214.36 + 1.26 + 2.04)


def test_what_a_layer_does_besides_products() -> None:
    slow = replace(SLOW, attention=200.0, score=4.0, passes=10.0, call=0.125)
    flops = replace(JOB.flops, scores=2.0, moved=5.0, calls=3.0)
    workload = replace(JOB, hardware=slow, flops=flops)
    # Linear 5.06 s. Passes: 2 branches x 23 tokens x 5 bytes / 10 = 23 s, 3 calls 0.375 s.
    # Attention: 13 + 2 scores x 4 operations, 2 x 21 x 23 x 35 / 200 = 169.05 s.
    middle = replace(ACTION, layers=range(2, 4))
    layer = 5.06 + 23.0 + 0.375 + 169.05
    assert compute_seconds(SERIAL, workload, middle) == pytest.approx(0.5 + 2 * layer)


def test_ranks_that_share_heads_pack_and_unpack_them() -> None:
    # 12 of 23 tokens, each with 4 tensors of 32 numbers of 2 bytes: halves of these stay (read and
    # written once), the others are packed and unpacked.
    assert packed_bytes(SERIAL, JOB) == 0.0
    layout = shared(ulysses=2)
    assert packed_bytes(layout, JOB) == 4 * 1.5 * 2 * 64
    workload = replace(JOB, hardware=replace(SLOW, passes=10.0))
    middle = replace(ACTION, layers=range(2, 3))
    longer = compute_seconds(layout, workload, middle) - compute_seconds(layout, JOB, middle)
    assert longer == pytest.approx(2 * 12 * 768 / 10)


def test_what_a_decoder_does_besides_convolutions() -> None:
    slow = replace(SLOW, unfolding=4.0, decoder_passes=5.0, half_channels=10.0)
    flops = replace(JOB.flops, unfolded=8.0, decode_moved=20.0, thin=5.0)
    assert JOB.decode_seconds == 19 / 50
    assert replace(JOB, hardware=slow, flops=flops).decode_seconds == (19 + 50) / 50 + 2 + 4


def test_ranks_that_share_tokens_take_a_share_and_the_exchange() -> None:
    layout = shared(ring=2, ulysses=2)
    # 23 tokens over 4 ranks: at most 6. Linear: 2 x 11 x 6 / 100 = 1.32 s. Attention: half of
    # the heads of half of the keys: 209.3 / 4 = 52.325 s. Exchange: see below, 1.972 s.
    middle = replace(ACTION, layers=range(2, 4))
    assert compute_seconds(layout, JOB, middle) == pytest.approx(0.5 + 2 * (1.32 + 52.325 + 1.972))
    # 5.75 tokens, half of their numbers go elsewhere: 2 x 5.75 x 32 / 2 = 184, 2 bytes each.
    assert ulysses_bytes(layout, JOB, ACTION) == pytest.approx((3 * 368, 368))
    # Keys and values of 35 / 4 = 8.75 tokens: 2 x 2 x 8.75 x 32 x 2 bytes.
    assert ring_bytes(layout, JOB, ACTION) == pytest.approx(2240)
    # 1.472 s of bytes and two latencies; a turn of the ring (2.49 s) hides behind attention.
    assert exchange_seconds(layout, JOB, ACTION, 52.325) == pytest.approx(1.972)


def test_the_largest_share_of_attention() -> None:
    assert attention_share(shared(), 4) == 1.0
    assert attention_share(shared(ulysses=2), 4) == 0.5
    # 4 heads over 3 ranks: one of them has 2.
    assert attention_share(shared(ulysses=3), 4) == 0.5
    assert attention_share(shared(ulysses=3, ring=2), 4) == 0.25


def test_turns_of_a_ring_that_attention_does_not_hide() -> None:
    # A turn: 2 x 2 x (35 / 3) x 32 x 2 bytes / 1000 + 0.25 s, less 0.6 / 3 s of attention; twice.
    expected = 2 * (2.9866667 + 0.25 - 0.2)
    assert exchange_seconds(shared(ring=3), JOB, ACTION, 0.6) == pytest.approx(expected)
    assert exchange_seconds(shared(ring=3), JOB, ACTION, 10.0) == 0.0
    assert exchange_seconds(shared(), JOB, ACTION, 0.0) == 0.0


def test_bytes_of_a_layer() -> None:
    # Per rank of 6: 4 x 2 x (23 / 6) x 32 / 2 x 2 bytes = 981.33, and two turns of
    # 2 x 2 x (35 / 6) x 32 x 2 = 1,493.33.
    assert layer_bytes(shared(ring=3, ulysses=2), JOB, ACTION) == pytest.approx(981.3333 + 2986.667)
    assert layer_bytes(shared(), JOB, ACTION) == 0.0


@pytest.mark.parametrize(
    ("chunks", "matmul", "seconds"),
    [
        # 11.5 tokens: before 2 x 11.5 x 32 / 2 x 3 x 2 = 2,208 bytes, after 736; 2 latencies.
        (1, 100.0, 2.208 + 0.736 + 2 * 0.25),
        # 5 messages. Hidden: two thirds of what goes before (a projection takes 471 s), and half
        # of the result behind 0.5 s of attention; half of all that, says the hardware.
        (2, 100.0, 2.208 + 0.736 + 5 * 0.25 - 0.5 * (2 * 0.736 + 0.5 * 0.5)),
        # Projections of 2 x 2 x 11.5 x 32 x 32 / 1e6 = 0.047104 s hide no more than they take.
        (2, 1e6, 2.208 + 0.736 + 5 * 0.25 - 0.5 * (2 * 0.047104 + 0.5 * 0.5)),
        (4, 1e6, 2.208 + 0.736 + 7 * 0.25 - 0.5 * (2 * 0.047104 + 0.75 * 0.5)),
    ],
)
def test_what_pipesp_hides(chunks: int, matmul: float, seconds: float) -> None:
    workload = replace(JOB, hardware=replace(SLOW, matmul=matmul))
    layout = shared(ulysses=2, chunks=chunks)
    assert exchange_seconds(layout, workload, ACTION, 0.5) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("kind", "branches", "sequence", "size"),
    [
        (Kind.HOP, range(2), 1, 2 * 23 * 32 * 2),
        (Kind.HOP, range(1), 4, 6 * 32 * 2),  # 23 tokens over 4 ranks: 6
        (Kind.PREDICTION, range(1, 2), 1, 3 * 3 * 4 * 6 * 4),
        (Kind.PREDICTION, range(2), 4, 2 * 3 * 3 * 4 * 6 * 4),
        (Kind.GUIDED, range(2), 1, 3 * 3 * 4 * 6 * 4),
        (Kind.LATENTS, range(2), 1, 3 * 3 * 4 * 6 * 4),
        (Kind.BLOCK, range(2), 1, 3 * 3 * 4 * 6 * 4),
    ],
)
def test_bytes_of_a_message(kind: Kind, branches: range, sequence: int, size: int) -> None:
    """Hidden states in the model's 2 bytes, pictures of 3 frames and 3 channels in 4."""
    message = Message(kind=kind, index=0, block=0, step=0, branches=branches, frames=3)
    assert message_bytes(JOB, message, sequence) == size


def test_seconds_of_a_decoded_frame() -> None:
    assert decode_seconds(SERIAL, JOB) == pytest.approx(19 / 50)
    assert decode_seconds(replace(SERIAL, decoders=2), JOB) == pytest.approx(0.38)
    tiles = replace(JOB, tiles=5)
    assert decode_seconds(SERIAL, tiles) == pytest.approx(0.38)
    # The slower of two ranks decodes 3 of 5 tiles.
    shares = replace(SERIAL, decoders=2, tiled=True)
    assert decode_seconds(shares, tiles) == pytest.approx(0.6 * 0.38)


def test_two_stages_on_a_clock() -> None:
    """One block of 3 frames, two steps; nothing overlaps, so all times are sums.

    A layer takes (2 x 11 x 23 + 2 x 13 x 23 x 23) / 100 = 142.6 s.
    """
    first = 0.5 + 3 * 142.6 + 7 * 18 / 100
    last = 0.5 + 3 * 142.6 + 17 * 18 * 2 / 100
    hop = 2 * 23 * 32 * 2 / 1000 + 0.25
    guided = 3 * 3 * 24 * 4 / 1000 + 0.25
    step = first + hop + last + guided
    decoded = 3 * 0.38
    assert (first, last, hop, guided) == pytest.approx((429.56, 434.42, 3.194, 1.114))
    layout = staged(JOB)
    computed = [box for box in boxes_of(layout, JOB) if isinstance(box.action, Compute)]
    times = sorted((box.rank, box.start, box.stop) for box in computed)
    assert times[0] == pytest.approx((0, 0.0, first))
    assert times[1] == pytest.approx((0, step, step + first))
    assert times[2] == pytest.approx((1, first + hop, first + hop + last))
    assert times[3] == pytest.approx((1, step + first + hop, step + first + hop + last))
    simulation = simulated(layout, JOB)
    assert simulation.makespan == pytest.approx(2 * step + decoded)
    assert simulation.first_block == pytest.approx(2 * step + 0.38)
    assert simulation.busy == pytest.approx((2 * first + decoded, 2 * last))
    assert simulation.idle_of_ranks == pytest.approx((1 - 860.26 / 1737.716, 1 - 868.84 / 1737.716))
    assert simulation.idle == pytest.approx(1 - (860.26 + 868.84) / 2 / 1737.716)
    hops, pictures = 2 * 2944, 2 * 864
    assert simulation.link_bytes == {Link(0, 1, Kind.HOP): hops, Link(1, 0, Kind.GUIDED): pictures}
    assert simulation.sent_bytes == (hops, pictures)
    assert simulation.exchanged_bytes == (0.0, 0.0)


def test_a_finished_block_is_decoded_a_frame_after_each_task() -> None:
    # Blocks of 3 and 2 frames, one step: a frame of the first block after the second one's task,
    # the other two before the second one is handed over, which is decoded when all is done.
    workload = replace(JOB, latent_frames=5, steps=1)
    pieces = [
        (box.action.block, box.action.frames, round(box.stop - box.start, 6))
        for box in boxes_of(staged(workload), workload)
        if isinstance(box.action, Decode)
    ]
    assert pieces == [(0, 1, 0.38)] * 3 + [(1, 1, 0.38)] * 2
    kinds = [type(box.action) for box in boxes_of(staged(workload), workload) if box.rank == 0]
    last = len(kinds) - 1 - kinds[::-1].index(Advance)
    assert kinds[last + 1 :] == [Decode, Emit, Decode, Decode, Decode, Decode, Finish]
    alone = [box.action for box in boxes_of(SERIAL, workload) if isinstance(box.action, Decode)]
    assert [(one.block, one.first) for one in alone] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_ranks_that_share_tokens_send_what_their_layers_do() -> None:
    # One window of 3 frames in both steps, no context: 4 x 2 x 11.5 x 32 / 2 x 2 bytes a layer.
    simulation = simulated(shared(ulysses=2), JOB)
    assert simulation.exchanged_bytes == pytest.approx((2 * 6 * 2944, 2 * 6 * 2944))


def test_the_first_blocks_of_a_video() -> None:
    # The first block has 2 + 1 frames, each further one 2.
    long = replace(JOB, latent_frames=100, requests=7)
    assert bounded(long, 4).latent_frames == 3 + 3 * 2
    assert bounded(long, 4).requests == 1
    assert bounded(long).latent_frames == 3 + 31 * 2
    assert bounded(replace(JOB, latent_frames=9), 4).latent_frames == 9
    assert bounded(replace(JOB, latent_frames=10), 4).latent_frames == 9
