"""Two ranks, one pipeline: the model, the runs and the table of `dualparal.py` and `cascade.py`."""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from statistics import median

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, middle, table

from longtake.caches import FeatureCache, NextBlockKV
from longtake.guidance import ClassifierFreeGuidance, GuidanceSettings
from longtake.models import BackboneSpec, Compression, DiffusersSampler
from longtake.models.flops import Flops
from longtake.models.wan import WanBackbone
from longtake.noise import DrawnStepNoise, NoiseInit, NoiseSource, SharedPool
from longtake.plan.cost.simulator import simulate
from longtake.plan.devices import Hardware
from longtake.plan.ir.actions import Advance, Combine, Compute, Open
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.workload import Workload
from longtake.schedulers import BlockScheduler, FifoQueue
from longtake.strategies import (
    ActionDone,
    BlockDone,
    Communicator,
    Denoising,
    DualParal,
    SingleDevice,
)
from longtake.testing.ranks import RankPool
from longtake.testing.tiny.base import tiny_scheduler
from longtake.testing.tiny.parts import randomize

HEAD_DIM, TEXT, TOKENS, CHANNELS = 128, 64, 64, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What is run.

    Args:
        heads: Attention heads; the model dim is 128 times that.
        layers: Transformer layers.
        height: Latent height.
        width: Latent width.
        blocks: Blocks of the video.
        steps: Denoising steps.
        block_frames: Latent frames of a block.
        first_frames: Latent frames that the first block has more.
        scheduler: Cuts and orders. The weights do not depend on it, nor on what follows.
        cache: How tasks see the rest.
        noise: The starting noise of every block.
        sampler: diffusers' scheduler class.
        scale: Of guidance.
    """

    heads: int
    layers: int
    height: int
    width: int
    blocks: int
    steps: int
    block_frames: int = 8
    first_frames: int = 8
    scheduler: BlockScheduler = field(default_factory=lambda: FifoQueue(8, 8), compare=False)
    cache: FeatureCache = field(default_factory=NextBlockKV, compare=False)
    noise: NoiseInit = field(default_factory=SharedPool, compare=False)
    sampler: str = "UniPCMultistepScheduler"
    scale: float = 5.0

    @property
    def guidance(self) -> ClassifierFreeGuidance:
        """Two branches, or one."""
        return ClassifierFreeGuidance(GuidanceSettings(scales=(self.scale,)))

    @property
    def ffn(self) -> int:
        """Width of the feed-forward part, as in Wan 1.3B."""
        return round(HEAD_DIM * self.heads * 8960 / 1536)

    @property
    def spec(self) -> BackboneSpec:
        """Of the backbone."""
        return BackboneSpec(
            name="bench",
            channels=CHANNELS,
            patch=(1, 2, 2),
            heads=self.heads,
            head_dim=HEAD_DIM,
            layers=self.layers,
            native_frames=21,
            compression=Compression(temporal=4, spatial=8),
        )

    def workload(self, matmul: float) -> Workload:
        """Return what the simulator needs, on a machine of so many operations per second."""
        dim = self.spec.model_dim
        linear = 2 * (4 * dim * dim + 2 * dim * dim + 2 * dim * self.ffn) + 4 * TOKENS * dim
        flops = Flops(
            embed=2 * 4 * CHANNELS * dim,
            layer=linear,
            attention=4 * dim,
            head=2 * 4 * CHANNELS * dim,
            decode=0,
        )
        hardware = Hardware(
            name="measured",
            matmul=matmul,
            convolution=matmul,
            bandwidth=1e9,
            latency=2e-3,
            launch=0,
            memory=24e9,
        )
        return Workload(
            spec=self.spec,
            scheduler=self.scheduler,
            latent_frames=self.block_frames * self.blocks + self.first_frames,
            steps=self.steps,
            cache=self.cache,
            branches=len(self.guidance.branches),
            height=self.height,
            width=self.width,
            item_bytes=4,
            flops=flops,
            hardware=hardware,
        )


@dataclass(frozen=True, slots=True)
class Run:
    """What one rank measured.

    Args:
        start: When it began, on the machine's clock.
        stop: When it ended.
        busy: Seconds in which it computed.
        latents: Digest of the blocks that it yielded.
    """

    start: float
    stop: float
    busy: float
    latents: str


def transformer(size: Size) -> WanTransformer3DModel:
    """Return the model, of always the same weights."""
    model = WanTransformer3DModel(
        num_attention_heads=size.heads,
        attention_head_dim=HEAD_DIM,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT,
        freq_dim=64,
        ffn_dim=size.ffn,
        num_layers=size.layers,
    )
    return randomize(model, 0)


@lru_cache(maxsize=1)
def backbone_of(size: Size) -> WanBackbone:
    """Return the model as a backbone of all layers, made once per rank."""
    return WanBackbone(size.spec, [transformer(size)], range(size.layers))


def prompts_of(tokens: int) -> Tensor:
    """Return the text encoder's states of a prompt and of the negative one."""
    return torch.randn(2, tokens, TEXT, generator=torch.Generator().manual_seed(1))


def denoising(
    size: Size, workload: Workload, communicator: Communicator, tokens: int = TOKENS
) -> Denoising:
    """Return the work of one rank, which runs its own layers only."""
    backbone, prompts = backbone_of(size), prompts_of(tokens)
    text = lru_cache(lambda branches: backbone.condition_text({"states": prompts[list(branches)]}))
    source = NoiseSource(seed=0, channels=CHANNELS, height=size.height, width=size.width)
    return Denoising(
        backbone=backbone,
        tasks=workload.tasks(),
        noise=size.noise.blocks(source, workload.scheduler.blocks(workload.latent_frames)),
        cache=workload.cache,
        sampler=DiffusersSampler(tiny_scheduler(size.sampler), size.steps),
        guidance=size.guidance,
        text=lambda _frames, branches: text(branches),
        height=size.height,
        width=size.width,
        device=torch.device("cpu"),
        communicator=communicator,
        step_noise=DrawnStepNoise(source),
    )


@torch.no_grad()
def alone(communicator: Communicator, size: Size, ranks: int) -> Run | None:
    """Make the video serially, on each of the first ``ranks`` ranks."""
    if communicator.rank >= ranks:
        return None
    strategy = SingleDevice()
    layout = strategy.layout(1, size.workload(1))
    work = denoising(size, size.workload(1), Communicator.alone())
    latents, start = hashlib.sha256(), time.perf_counter()
    for event in strategy.run(work, layout, 0):
        if isinstance(event, BlockDone):
            latents.update(event.latents.numpy().tobytes())
    stop = time.perf_counter()
    return Run(start, stop, stop - start, latents.hexdigest())


@torch.no_grad()
def pipelined(communicator: Communicator, size: Size) -> Run:
    """Make the video on both ranks."""
    layout = two_stages(size)
    work = denoising(size, size.workload(1), communicator)
    latents, busy, start = hashlib.sha256(), 0.0, time.perf_counter()
    for event in DualParal().run(work, layout, communicator.rank):
        if isinstance(event, BlockDone):
            latents.update(event.latents.numpy().tobytes())
        if isinstance(event, ActionDone) and isinstance(
            event.action, Compute | Combine | Advance | Open
        ):
            busy += event.stop - event.start
    return Run(start, time.perf_counter(), busy, latents.hexdigest())


def two_stages(size: Size) -> Layout:
    """Half of the layers on each rank, guidance branches together."""
    half = size.layers // 2
    stages = (range(half), range(half, size.layers))
    return Layout(mesh=Mesh(pipe=2), stages=stages, batches=(range(len(size.guidance.branches)),))


def took(runs: list[Run]) -> float:
    """Return the seconds from the first rank's start to the last one's end."""
    return max(run.stop for run in runs) - min(run.start for run in runs)


def operations(size: Size) -> float:
    """Return the floating-point operations of the whole run, all branches."""
    workload = size.workload(1.0)
    alone = SingleDevice()
    return sum(simulate(alone.layout(1, workload), workload, alone.actions).busy)


def report(size: Size, rounds: int) -> None:
    """Run the rounds and print the table.

    Args:
        size: What is run.
        rounds: How often.
    """
    tasks = sum(1 for _ in size.workload(1).forwards())
    print(machine())
    print(f"model dim {size.spec.model_dim}, {size.layers} layers, {tasks} tasks")
    pool = RankPool(2, timeout=600)
    ceilings, speedups, shares, idles, singles = [], [], [], [], []
    pool.run(alone, replace(size, blocks=1, steps=2), 2)  # warm-up
    for _ in range(rounds):
        single = next(run for run in pool.run(alone, size, 1) if run is not None)
        twice = [run for run in pool.run(alone, size, 2) if run is not None]
        dual = pool.run(pipelined, size)
        assert dual[0].latents == single.latents == twice[1].latents, "not bit-equal"
        ceilings.append(2 * took([single]) / took(twice))
        speedups.append(took([single]) / took(dual))
        shares.append(speedups[-1] / ceilings[-1])
        idles.append(1 - sum(run.busy for run in dual) / (2 * took(dual)))
        singles.append(took([single]))
    # In the pipeline both processes compute at once, as in *twice*.
    speed = operations(size) / median(singles) * median(ceilings) / 2
    predicted = simulate(two_stages(size), size.workload(speed), DualParal().actions).idle
    rows = [
        ["a task of the serial run, ms", middle([1e3 * one / tasks for one in singles], 0)],
        ["ceiling: two runs at once over one", middle(ceilings, 3)],
        ["two stages over one run", middle(speedups, 3)],
        ["share of the ceiling", middle(shares, 3)],
        ["idle, measured", middle([100 * idle for idle in idles], 1) + " %"],
        ["idle, simulated", f"{100 * predicted:.1f} %"],
    ]
    print(table(["", f"median of {rounds} rounds (min to max)"], rows))
    pool.close()
