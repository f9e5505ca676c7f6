"""Memory by part and rank, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from longtake.caches import NextBlockKV, NoCache
from longtake.framework.engine.chosen_layout import ChosenLayout
from longtake.framework.engine.generation_config import GenerationConfig
from longtake.framework.engine.request import PromptAt, Request
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.workloads import Workloads
from longtake.models import Placement, open_for_plan
from longtake.models.footprint import Footprint
from longtake.plan.cost.memory import RankMemory, rank_memory, reused_bytes
from longtake.plan.cost.profiles import profile
from longtake.plan.cost.rundown import Widest, rundown
from longtake.plan.cost.simulator import bounded, message_bytes
from longtake.plan.ir.actions import Kind, Message
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.workload import Workload
from longtake.schedulers import FifoQueue
from longtake.strategies import DualParal, ParallelStrategy, SingleDevice
from longtake.testing.tiny.base import TinyCase

WAN_SMALL, WAN_LARGE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan-AI/Wan2.1-T2V-14B-Diffusers"
VIDEO = Request(
    index=0,
    prompts=(PromptAt(text="a", at=0),),
    num_frames=257,
    height=480,
    width=832,
    fps=16,
    seed=0,
)
FOOTPRINT = Footprint(
    text=5_000,
    text_embeddings=1_000,
    start=700,
    decoder=300,
    decoder_state=40,
    decoder_peak=60,
    activation=10.0,
)
TOKENS = 30 * 52
"""Of a latent frame at 480p."""


def chosen(name: str, strategy: ParallelStrategy, devices: int) -> ChosenLayout:
    """Return the checked plan of a published model on GPUs of 141 GB."""
    config = GenerationConfig(
        pipeline=name, scheduler=FifoQueue(8, 8), steps=4, dtype="bfloat16", guidance_scale=5.0
    )
    place = Placement(torch.device("cpu"), torch.bfloat16)
    model = ResolvedModel(config, place, open_for_plan)
    found = ChosenLayout(Workloads(model, profile("H200")), strategy, devices)
    found.check([VIDEO])
    return found


def widest(plan: ChosenLayout) -> Widest:
    return rundown(bounded(plan.workload)).widest


@pytest.mark.parametrize(
    ("name", "layers", "width", "inner"),
    [(WAN_SMALL, 30, 1536, 8960), (WAN_LARGE, 40, 5120, 13824)],
)
def test_wan_on_one_device_by_hand(name: str, layers: int, width: int, inner: int) -> None:
    plan = chosen(name, SingleDevice(), 1)
    [memory] = plan.memory.of(plan.workload, plan.layout)
    layer = 8 * (width * width + width) + 2 * width * inner + inner + width + 12 * width
    rest = 65 * width + (257 + width + 1) * width + (width + 1) * 6 * width
    rest += (4097 + width + 1) * width + (width + 1) * 64 + 2 * width
    assert memory.weights == 2 * (layers * layer + rest)
    # NextBlockKV keeps 8 frames for the block that comes next, of which there is one at a time
    assert memory.kv == 8 * TOKENS * 2 * width * 2 * layers * 2
    umt5 = 256384 * 4096 + 24 * (4 * 4096**2 + 3 * 4096 * 10240 + 32 * 64 + 2 * 4096) + 4096
    assert memory.text == memory.host == 2 * umt5
    assert memory.messages == memory.start == 0
    # the first block's 16 frames and three blocks of 8, 16 channels of 60 x 104 in fp32, 4 tensors
    assert memory.latents == 4 * (16 + 3 * 8) * 16 * 60 * 104 * 4
    # the two branches in one batch; the feed-forward holds its input and twice its inner width
    tokens = widest(plan).frames * TOKENS
    least = 2 * tokens * (2 * width + 2 * 2 * inner)
    assert least < memory.activations < 2.5 * least
    assert memory.peak == max(memory.text, memory.running)


def test_stages_share_what_layers_hold() -> None:
    [whole] = (one := chosen(WAN_LARGE, SingleDevice(), 1)).memory.of(one.workload, one.layout)
    plan = chosen(WAN_LARGE, DualParal(stages=4, guidance="together"), 4)
    ranks = plan.memory.of(plan.workload, plan.layout)
    assert sum(rank.kv for rank in ranks) == whole.kv
    assert [rank.text > 0 for rank in ranks] == [True, False, False, False]
    assert [rank.vae > 0 for rank in ranks] == [True, False, False, False]
    hop = 2 * widest(plan).frames * TOKENS * 5120 * 2
    assert {rank.messages for rank in ranks} == {2 * hop}  # one comes, one goes


def test_the_state_of_wans_decoder_by_hand() -> None:
    """Every causal convolution keeps the last two frames of what it is given."""
    plan = chosen(WAN_SMALL, SingleDevice(), 1)
    found = plan.memory.footprint(60, 104)
    position = 60 * 104
    low = 16 + 4 * 384 + 6 * 384 + 384  # conv_in, the middle, the first level, in time
    double = 4 * position * (192 + 5 * 384 + 384)  # the first one is narrower; in time
    quadruple = 16 * position * 6 * 192
    full = 64 * position * (6 * 96 + 96)
    state = 2 * 4 * (position * low + double + quadruple + full)
    assert found.decoder_state == pytest.approx(state, rel=0.1)
    assert found.decoder_peak > 3 * 4 * 64 * position * 96  # three frames of 96 channels at least


def test_parts_add_up_by_hand() -> None:
    workload = replace(TinyCase().workload, item_bytes=2, tiles=3)
    layout = Layout(mesh=Mesh(ulysses=2), stages=(range(4),), batches=(range(2),), decoders=1)
    window = Widest(frames=5, context=2)
    found = [
        rank_memory(workload, layout, rank, FOOTPRINT, window, weights=900, kv=80, starts=True)
        for rank in range(3)
    ]
    own, heads = 5 * 6 // 2, 1  # 2 x 3 tokens per frame, halved; of 2 heads one
    activations = 2 * (own * 10 + 2 * 7 * 6 * heads * 12 * 2)
    states = 2 * own * 24 * 2
    for rank in found[:2]:
        assert (rank.weights, rank.kv, rank.vae) == (900, 80, 0)
        assert rank.activations == activations
        assert rank.messages == 6 * states
    assert (found[0].text, found[0].start, found[1].text, found[1].start) == (5_000, 700, 0, 0)
    assert (found[2].weights, found[2].vae, found[2].vae_peak) == (0, 300 + 3 * 40, 60)
    assert found[2].peak == 480
    assert found[1].peak == 900 + 80 + 6 * states + activations


def test_a_cpu_alone_decodes_beside_its_tasks() -> None:
    workload, window = TinyCase().workload, Widest(frames=5, context=0)
    footprint = replace(FOOTPRINT, decoder_workspace=7)

    def held_by(workload: Workload, layout: Layout, rank: int) -> RankMemory:
        return rank_memory(
            workload,
            layout,
            rank,
            footprint,
            window,
            weights=900,
            kv=80,
            starts=False,
            later=Widest(frames=3, context=0),
        )

    cpu = replace(workload, hardware=replace(workload.hardware, cpu=True))
    gpu = replace(workload, hardware=replace(workload.hardware, cpu=False))
    serial, group = Layout.serial(4, 2), replace(Layout.serial(4, 2), decoders=1)
    alone = held_by(cpu, serial, 0)
    assert alone.vae_peak == 67
    held = 900 + 80 + alone.latents + alone.vae
    assert alone.beside * 5 == alone.activations * 3 > 0
    assert alone.running == held + max(alone.activations, alone.beside + 67)
    on_gpu = held_by(gpu, serial, 0)
    assert on_gpu.running == held + max(on_gpu.activations, 60)
    decoder = held_by(cpu, group, 1)
    assert on_gpu.beside == decoder.beside == 0
    assert decoder.running == decoder.vae + 67


def test_what_a_decoder_keeps_grows_with_the_picture() -> None:
    plan = chosen(WAN_SMALL, SingleDevice(), 1)
    small, large = plan.memory.footprint(8, 8), plan.memory.footprint(16, 16)
    assert large.decoder_state == 4 * small.decoder_state
    assert (large.text, large.decoder) == (small.text, small.decoder)


def test_reused_layers_are_kept_on_the_first_and_the_last_stage() -> None:
    # 3 blocks, windows of 2 + 3 + 2 frames of 6 tokens of 24 numbers: 3 x 42 x 24 = 3,024. In fp32
    # the prompt's branch on the first stage, both branches on the last one.
    case = TinyCase(scheduler=FifoQueue(3, 2), cache=NoCache(), latent_frames=11)
    workload, window = replace(case.workload, reuses=True), Widest(frames=7, context=0)
    serial = Layout.serial(4, 2)
    stages = replace(serial, mesh=Mesh(pipe=2), stages=(range(2), range(2, 4)))
    apart = replace(serial, mesh=Mesh(cfg=2), batches=(range(1), range(1, 2)))
    assert reused_bytes(workload, serial, 0, window) == 3_024 * (4 + 2 * 4)
    assert [reused_bytes(workload, stages, rank, window) for rank in range(2)] == [12_096, 24_192]
    assert [reused_bytes(workload, apart, rank, window) for rank in range(2)] == [24_192, 12_096]
    assert reused_bytes(case.workload, serial, 0, window) == 0
    # Two of three blocks in flight leave 2 frames each for the one before them: 4 frames of 6
    # tokens of 24 keys and 24 values, in 4 layers, 2 branches.
    keeps = replace(workload, cache=NextBlockKV())
    left = [reused_bytes(keeps, layout, 0, window) for layout in (serial, stages)]
    assert left == [3_024 * 12 + 4 * 6 * 48 * 4 * 2 * 4, 12_096 + 4 * 6 * 48 * 2 * 2 * 4]
    hop = Message(kind=Kind.HOP, index=0, block=0, step=0, branches=range(2), frames=7)
    sizes = [message_bytes(one, hop) for one in (case.workload, workload)]
    assert sizes == [2 * 42 * 24 * 4, 4 * 42 * 24 * 4]
