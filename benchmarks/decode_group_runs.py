"""What the decode group's benchmarks share: a model in two sizes, and whole engine runs of it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from benchmarks.common import PEAK, reset_peak, resident
from diffusers import AutoencoderKLWan, WanPipeline

from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.plan.devices import Hardware
from longtake.plan.ir.actions import Decode
from longtake.schedulers import FifoQueue
from longtake.strategies import (
    ActionDone,
    BlockDone,
    Communicator,
    DualParal,
    ParallelStrategy,
    SingleDevice,
)
from longtake.testing.ranks import RankPool
from longtake.testing.tiny.base import (
    CHANNELS,
    tiny_scheduler,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_wan_transformer,
)
from longtake.testing.tiny.parts import randomize

BLOCK, STEPS, SIDE = 4, 6, 64
"""Latent frames of a block, denoising steps, pixels of a picture's side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A model's size.

    Args:
        name: What takes long.
        heads: Attention heads of 32 numbers.
        vae: Channels of the VAE's outermost level.
    """

    name: str
    heads: int
    vae: int


SETTINGS: Final = (
    Setting(name="VAE", heads=5, vae=6),
    Setting(name="DiT", heads=8, vae=2),
)


@dataclass(frozen=True, slots=True)
class Way:
    """How a run is laid out.

    Args:
        name: In tables.
        ranks: How many.
        strategy: Where things run.
        copies: Runs at once, each on ranks of its own; more than one on single ranks only.
    """

    name: str
    ranks: int
    strategy: ParallelStrategy
    copies: int = 1


def stages(count: int, decoders: int = 0) -> DualParal:
    """Return a layer pipeline that is bit-equal to one device."""
    return DualParal(stages=count, cfg=1, guidance="together", decode_devices=decoders)


WAYS: Final = (
    Way("one device", 1, SingleDevice()),
    Way("2 stages", 2, stages(2)),
    Way("1 + 1", 2, SingleDevice(decode_devices=1)),
    Way("3 stages", 3, stages(3)),
    Way("2 + 1", 3, stages(2, decoders=1)),
)
"""Ways to use 1, 2 and 3 ranks; the group's are named by denoising and decoding ranks."""
TWICE: Final = Way("two at once", 1, SingleDevice(), copies=2)
"""What this machine gives two processes that do not wait for each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one rank measured, in seconds; moments are of the machine's clock.

    Args:
        start: When its weights were loaded and it began.
        stop: When it had ended.
        first_block: When the first block was denoised; 0 on ranks that were not told.
        first_frame: When there was a video frame; 0 on ranks that were not told.
        block_decode: What the first block's decoding took, on the rank that decoded it.
        denoise: What denoising took in all.
        decode: What decoding, or waiting for it, took in all.
        frames: Digest of the videos.
        peak: Resident bytes, at most.
    """

    start: float
    stop: float
    first_block: float
    first_frame: float
    block_decode: float
    denoise: float
    decode: float
    frames: str
    peak: int


def save_model(setting: Setting, path: Path) -> None:
    """Save a pipeline of a setting's size."""
    dim = 32 * setting.heads
    transformer = tiny_wan_transformer(
        num_attention_heads=setting.heads, attention_head_dim=32, ffn_dim=4 * dim, num_layers=6
    )
    vae = AutoencoderKLWan(
        base_dim=setting.vae,
        z_dim=CHANNELS,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )
    WanPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=tiny_text_encoder(),
        vae=randomize(vae, 0),
        scheduler=tiny_scheduler(),
        transformer=transformer,
    ).save_pretrained(path)


def recipe_of(path: str, steps: int = STEPS) -> GenerationConfig:
    """Return how videos are made with a saved model."""
    scheduler = FifoQueue(BLOCK, BLOCK)
    return GenerationConfig(pipeline=path, scheduler=scheduler, steps=steps, dtype="float32")


def requests_of(lengths: list[int]) -> list[Request]:
    """Return videos of so many latent frames."""
    return [
        Request(
            prompts=(PromptAt(text="red shape"),),
            num_frames=1 + 4 * (latent_frames - 1),
            height=SIDE,
            width=SIDE,
            seed=index,
            index=index,
        )
        for index, latent_frames in enumerate(lengths)
    ]


@torch.no_grad()
def make(
    communicator: Communicator,
    generation_config: GenerationConfig,
    way: Way,
    lengths: list[int],
    hardware: Hardware | None,
) -> Run | None:
    """Make the videos as one of the ranks; ``None`` on those that a single device leaves out."""
    if communicator.rank >= way.ranks * way.copies:
        return None
    engine = Engine(
        generation_config,
        way.strategy,
        world_size=way.ranks,
        rank=communicator.rank % way.ranks,
        hardware=hardware,
    )
    requests = requests_of(lengths)
    engine.check(requests)
    if way.ranks > 1:
        engine.join(communicator)
    engine.load(requests)
    moments: dict[str, float] = {}
    digest, block_decode = hashlib.sha256(), 0.0
    reset_peak()
    if way.ranks > 1:
        communicator.gather("loaded")
    start = time.perf_counter()
    for request in requests:
        for event in engine.generate_ahead(request):
            match event:
                case BlockDone():
                    moments.setdefault("block", time.perf_counter())
                case FramesDecoded(frames=frames):
                    moments.setdefault("frame", time.perf_counter())
                    digest.update(frames.numpy().tobytes())
                case ActionDone(action=Decode(block=0)) if request.index == 0:
                    block_decode += event.stop - event.start
                case _:
                    pass
    for event in engine.finish():
        if isinstance(event, FramesDecoded):
            moments.setdefault("frame", time.perf_counter())
            digest.update(event.frames.numpy().tobytes())
    return Run(
        start=start,
        stop=time.perf_counter(),
        first_block=moments.get("block", 0.0),
        first_frame=moments.get("frame", 0.0),
        block_decode=block_decode,
        denoise=engine.timings.seconds["denoise"],
        decode=engine.timings.seconds["decode"],
        frames=digest.hexdigest(),
        peak=resident(PEAK),
    )


def run(
    pool: RankPool,
    generation_config: GenerationConfig,
    way: Way,
    lengths: list[int],
    hardware: Hardware | None,
) -> list[Run]:
    """Return what every rank that took part measured, the output rank first."""
    return [
        one for one in pool.run(make, generation_config, way, lengths, hardware) if one is not None
    ]


def took(runs: list[Run]) -> float:
    """Return the seconds from the first rank's start to the last one's end."""
    return max(one.stop for one in runs) - min(one.start for one in runs)
