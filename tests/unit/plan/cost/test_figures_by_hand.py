"""Hardware profiles, byte budgets, blocks in flight, noise and world sizes, worked out by hand."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from tests.unit.plan.cost.test_cost_by_hand import JOB, SPEC

from longtake.caches import NextBlockKV, NoCache, SameStepKV, forwards, peak_held_frames
from longtake.framework.engine.preflight import cache_bytes, weight_bytes
from longtake.framework.launch.rank_strategy import RankStrategy
from longtake.framework.trainer import InferenceTrainer
from longtake.models import ModelFolder
from longtake.models.blank import BlankModel
from longtake.models.counting import WeightCount, count_flops
from longtake.noise import Independent, NoiseSource, SharedPool
from longtake.plan.cost.profiles import hardware_of, profile
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.schedulers import FifoQueue, FullSequence
from longtake.task import FrameRange, Video

SOURCE = NoiseSource(seed=3, channels=2, height=3, width=4)


@pytest.mark.parametrize(
    ("name", "bf16", "fp32", "convolution", "link", "memory"),
    [
        # Half of the peaks in bf16 and fp32, 0.4 of the fp32 peak (all in 1e12 operations a
        # second), 0.75 of the links in one direction (GB a second), GB of memory.
        ("B200", 1125.0, 37.5, 30.0, 675.0, 180),
        ("H200", 494.5, 33.5, 26.8, 337.5, 141),
        ("H100", 494.5, 33.5, 26.8, 337.5, 80),
        ("H100 PCIe", 378.0, 25.5, 20.4, 48.0, 80),
        ("A100", 156.0, 9.75, 7.8, 225.0, 80),
        ("A100 PCIe", 156.0, 9.75, 7.8, 24.0, 80),
        ("A10", 62.5, 15.6, 12.48, 24.0, 24),
        ("L40", 90.5, 45.25, 36.2, 24.0, 48),
        ("L40S", 181.0, 45.8, 36.64, 24.0, 48),
        ("L4", 60.5, 15.15, 12.12, 12.0, 24),
        ("RTX 6000 Ada", 182.0, 45.55, 36.44, 24.0, 48),
        ("RTX A6000", 77.5, 19.35, 15.48, 24.0, 48),
        ("RTX 5090", 104.5, 52.5, 42.0, 24.0, 32),
        ("RTX 4090", 82.5, 41.3, 33.04, 12.0, 24),
        ("RTX 3090", 35.5, 17.8, 14.24, 12.0, 24),
    ],
)
def test_profiles_are_shares_of_published_peaks(
    name: str, bf16: float, fp32: float, convolution: float, link: float, memory: float
) -> None:
    hardware = profile(name)
    assert hardware.name == name
    assert hardware.matmul == pytest.approx(bf16 * 1e12)
    assert hardware.convolution == pytest.approx(convolution * 1e12)
    assert hardware.bandwidth == pytest.approx(link * 1e9)
    assert hardware.memory == pytest.approx(memory * 1e9)
    assert (hardware.latency, hardware.launch, hardware.hiding) == (3e-5, 3e-4, 1.0)
    assert profile(name, torch.float16) == hardware
    single = profile(name, torch.float32)
    assert single.matmul == pytest.approx(fp32 * 1e12)
    assert replace(single, matmul=hardware.matmul) == hardware


def test_the_profile_of_a_cpu() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        hardware = profile("cpu")
        assert hardware.name == "cpu, 3 threads"
        assert (hardware.matmul, hardware.convolution) == (240e9, 240e9)
        assert (hardware.bandwidth, hardware.latency, hardware.launch) == (1e9, 1.5e-3, 1e-3)
        assert hardware.memory == psutil.virtual_memory().total
        assert hardware.hiding == 0.0
        torch.set_num_threads(1)
        assert (profile("cpu").name, profile("cpu").matmul) == ("cpu, 1 thread", 80e9)
    finally:
        torch.set_num_threads(threads)


def test_a_gpu_is_known_by_its_name_and_asked_for_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def said(name: str) -> None:
        properties = SimpleNamespace(name=name, total_memory=123)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)

    cuda = torch.device("cuda", 0)
    said("NVIDIA L4")
    assert hardware_of(cuda, torch.float32) == replace(profile("L4", torch.float32), memory=123.0)
    said("Some Other Card")
    unknown = hardware_of(cuda, torch.bfloat16)
    # A middling device: peaks of 150e12 and 40e12, PCIe 4.
    assert (unknown.name, unknown.matmul, unknown.bandwidth, unknown.memory) == (
        "unknown Some Other Card",
        75e12,
        24e9,
        123.0,
    )
    other = hardware_of(torch.device("meta"), torch.bfloat16)
    assert (other.name, other.convolution, other.memory) == ("unknown meta", 16e12, 24e9)


def test_frames_that_caches_hold() -> None:
    """Blocks of 3, 2 and 2 frames, context 1: ``0.0 | 1.0 0.1 | 2.0 1.1 0.2 | 2.1 1.2 | 2.2``."""
    tasks = list(FifoQueue(2, 1).tasks(Video(7, 3)))
    assert peak_held_frames(NoCache(), tasks) == 0
    # A head of 1 frame, read by the next task.
    assert peak_held_frames(NextBlockKV(), tasks) == 1
    # 1.0 takes the tail of 0.0 and leaves its own beside its head: 2. 0.1 takes that head and
    # leaves a tail: 2. 2.0 takes 1.0's tail and leaves its head (it has no next): 2 with 0.1's
    # tail. 1.1 takes both and leaves head and tail: 2. 0.2 takes the head and leaves a tail: 2.
    assert peak_held_frames(SameStepKV(), tasks) == 2
    # Context 2: each of these is 2 frames, and a block of 2 is its head and its tail, kept once.
    # 1.0 takes the tail of 0.0 and leaves its own: 2. 0.1 sees those too, which stay for 2.0, and
    # leaves a tail: 4. 2.0 takes 1.0's and leaves its head: 4. 1.1 takes both and leaves 2.
    wide = list(FifoQueue(2, 2).tasks(Video(8, 3)))
    assert peak_held_frames(NextBlockKV(), wide) == 2
    assert peak_held_frames(SameStepKV(), wide) == 4


def test_bytes_that_a_rank_holds() -> None:
    workload = replace(JOB, latent_frames=7, steps=3, cache=SameStepKV())
    serial = Layout.serial(6, 2)
    # Keys and values: 2 x 6 tokens x 32 x 2 bytes = 768 a frame, layer and branch.
    assert cache_bytes(workload, serial, 0) == 2 * 768 * 6 * 2
    stages = Layout(
        mesh=Mesh(cfg=2, pipe=2),
        stages=(range(4), range(4, 6)),
        batches=(range(1), range(1, 2)),
    )
    assert cache_bytes(workload, stages, 0) == 2 * 768 * 4
    assert cache_bytes(workload, stages, 3) == 2 * 768 * 2
    weights = WeightCount(layers=(10, 20, 30, 40, 50, 60), rest=7)
    assert weight_bytes(workload, stages, 0, weights) == 2 * (100 + 7)
    assert weight_bytes(workload, stages, 3, weights) == 2 * (110 + 7)
    assert weight_bytes(workload, stages, 0, None) == 0


@pytest.mark.parametrize(
    ("scheduler", "frames", "steps", "blocks"),
    [
        (FifoQueue(8, 8), None, 50, 50),
        (FifoQueue(8, 8, 3), None, 50, 17),  # 16.7
        (FifoQueue(8, 8), 257, 50, 32),  # 16, 30 x 8 and 1 frames
        (FifoQueue(8, 8), 256, 50, 31),
        (FifoQueue(8, 8), 16, 50, 1),
        (FifoQueue(8, 8), 17, 50, 2),
        (FifoQueue(8, 4), 5, 50, 1),
        (FifoQueue(2, 1), 7, 2, 2),
        (FullSequence(), 81, 50, 1),
    ],
)
def test_blocks_in_flight(
    scheduler: FifoQueue | FullSequence, frames: int | None, steps: int, blocks: int
) -> None:
    assert scheduler.blocks_in_flight(Video(frames, steps)) == blocks
    assert replace(
        JOB, scheduler=scheduler, latent_frames=frames, steps=steps
    ).blocks_in_flight == (blocks)


def test_frame_ranges() -> None:
    frames = FrameRange(4, 9)
    assert len(frames) == 5
    assert (str(frames.first(2)), str(frames.last(2))) == ("4:6", "7:9")
    assert (frames.first(7), frames.last(7)) == (frames, frames)
    assert [frame in frames for frame in (3, 4, 8, 9)] == [False, True, True, False]
    assert FrameRange(5, 7).within(frames) == slice(1, 3)
    for start, stop in ((3, 5), (8, 10)):
        with pytest.raises(ValueError, match=f"frames {start}:{stop} are not within 4:9"):
            FrameRange(start, stop).within(frames)
    assert FrameRange(-1, 2).each == (-1, 0, 1)
    for start, stop in ((3, 2), (-1, -2)):
        with pytest.raises(ValueError, match=f"frames {start}..{stop} do not run forward"):
            FrameRange(start, stop)


def test_steps_that_a_frame_has_behind_it() -> None:
    # Block 1 (3:5) at step 1 of 3, stride 1: block 0 has 2 steps behind it, block 2 has run 0.
    task = next(t for t in FifoQueue(2, 1).tasks(Video(7, 3)) if (t.block, t.step) == (1, 1))
    (forward,) = forwards([task], NoCache())
    assert forward.latents == [(FrameRange(2, 3), 2), (FrameRange(3, 6), 1)]
    first = next(t for t in FifoQueue(2, 1).tasks(Video(7, 3)) if (t.block, t.step) == (1, 0))
    (forward,) = forwards([first], NoCache())  # block 2 has not come in
    assert forward.latents == [(FrameRange(2, 3), 1), (FrameRange(3, 5), 0)]


def generator(purpose: str, index: int) -> torch.Generator:
    """Return what seed 3 and request 2 give, spelt out: videos must stay the same for ever."""
    digest = hashlib.blake2b(f"3/0/{purpose}/{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") // 2)


def test_independent_noise_is_drawn_block_by_block() -> None:
    blocks = list(Independent().blocks(SOURCE, [FrameRange(0, 3), FrameRange(3, 5)]))
    for index, length in ((0, 3), (1, 2)):
        drawn = torch.randn((1, 2, length, 3, 4), generator=generator("block", index))
        assert torch.equal(blocks[index], drawn)


def test_the_pool_is_reshuffled_for_every_block() -> None:
    """A pool of 5; blocks of 3 keep the last 2 of what the block before has left."""
    cut = [FrameRange(0, 5), FrameRange(5, 8), FrameRange(8, 11), FrameRange(11, 12)]
    blocks = list(SharedPool().blocks(SOURCE, cut))
    pool = torch.randn((1, 2, 5, 3, 4), generator=generator("pool", 0))
    assert torch.equal(blocks[0], pool)
    order = [0, 1, 2, 3, 4]
    for block, length in ((1, 3), (2, 3), (3, 1)):
        shuffle = torch.randperm(3, generator=generator("shuffle", block)).tolist()
        drawn = [order[place] for place in shuffle]
        order = [order[3], order[4], *drawn]
        assert torch.equal(blocks[block], pool[:, :, drawn[:length]]), block


@pytest.mark.parametrize(("node", "local", "rank"), [(0, 0, 0), (0, 2, 2), (1, 0, 3), (1, 2, 5)])
def test_the_world_is_devices_times_nodes(
    node: int, local: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_RANK", str(node))
    monkeypatch.setenv("LOCAL_RANK", str(local))
    environment = LightningEnvironment()
    strategy = RankStrategy(environment)
    strategy.parallel_devices = [torch.device("cpu")] * 3
    strategy.num_nodes = 2
    strategy.set_world_ranks()
    assert (environment.world_size(), environment.global_rank()) == (6, rank)
    assert strategy.num_processes == 3


def test_the_trainer_counts_devices_of_all_nodes() -> None:
    assert InferenceTrainer(accelerator="cpu", devices=3, num_nodes=2).ranks == 6


def test_a_model_has_heads_times_their_size() -> None:
    assert replace(SPEC, heads=3, head_dim=7).model_dim == 21
    assert replace(SPEC, patch=(1, 2, 3)).tokens_per_frame(8, 9) == 12


def test_a_model_that_cannot_be_counted_is_taken_for_an_ordinary_one() -> None:
    nothing: Any = object()  # has no weights that could be counted
    folder = ModelFolder(Path("nowhere"), {})
    work = count_flops(BlankModel(nothing, folder, SPEC, torch.float32), 4, 6)
    # Patches of 4 positions x 3 channels to and from 32 numbers, a product and a sum each.
    assert work.embed == work.head == 2 * 12 * 32
    # Two attentions (4 and 2 projections; keys and values of text are few) and a feed-forward of
    # four times the width: 14 products of 32 x 32.
    assert work.layer == 2 * 14 * 1024
    # Scores and their product with the values: 2 x 2 x 32 per query and key.
    assert work.attention == 128
    # 8e6 operations per pixel; a latent position is 8 x 8 pixels of 4 video frames.
    assert work.decode == 8e6 * 256 * 4 * 6
