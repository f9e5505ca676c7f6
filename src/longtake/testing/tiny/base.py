"""Random-weight models small enough for a test: pipeline folders on disk, and work in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from torch import Tensor

from longtake.caches import FeatureCache, NextBlockKV
from longtake.guidance import ClassifierFreeGuidance, Guidance, GuidanceSettings
from longtake.models import BackboneSpec, Compression, DiffusersSampler, ModelFolder
from longtake.models.base import PromptStates
from longtake.models.flops import Flops
from longtake.models.text import join_prompts, split_prompts
from longtake.models.wan import WanBackbone
from longtake.noise import DrawnStepNoise, NoiseInit, NoiseSource, SharedPool
from longtake.plan.devices import Hardware
from longtake.reuse import LayerReuse
from longtake.schedulers import BlockScheduler, FifoQueue
from longtake.strategies import Communicator, Denoising, Workload
from longtake.task import FrameRange
from longtake.testing.tiny.parts import (
    drop_layers,
    randomize,
    save_folder,
    t5_encoder,
    word_tokenizer,
)

CHANNELS, TEXT_DIM, TOKENS, LAYERS = 4, 8, 8, 4
"""Latent channels, text encoder width, tokens per prompt, transformer layers."""

HEIGHT, WIDTH = 4, 6
"""Latent height and width of a ``TinyCase``."""

BOUNDARY = 0.875
"""Share of the training timesteps above which the first of two experts works."""

WAN_SIZES: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "text_dim": TEXT_DIM,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": LAYERS,
    "rope_max_seq_len": 64,
}
"""Configuration of a Wan transformer."""

_WORDS = [
    "<pad>", "</s>", "<unk>", "a", "an", "the", "red", "blue", "shape", "moves", "left", "right",
    "fast", "slow", "bird", "sea",
]  # fmt: skip
_SAMPLERS: dict[str, dict[str, Any]] = {
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "UniPCMultistepScheduler": {
        "flow_shift": 3.0,
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
    },
    "DPMSolverMultistepScheduler": {
        "flow_shift": 3.0,
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "algorithm_type": "dpmsolver++",
    },
    "FlowMatchEulerDiscreteScheduler-stochastic": {"shift": 3.0, "stochastic_sampling": True},
    "DPMSolverMultistepScheduler-sde": {
        "flow_shift": 3.0,
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "algorithm_type": "sde-dpmsolver++",
    },
}
"""Options by class, or by class and variant."""


def tiny_wan_folder(
    path: Path,
    *,
    experts: int = 1,
    sampler: str = "UniPCMultistepScheduler",
    shard_size: str | None = None,
    seed: int = 0,
    heads: int = 2,
) -> ModelFolder:
    """Save a random-weight ``WanPipeline`` as diffusers does, and open it.

    Args:
        path: Where to.
        experts: 1 as in Wan 2.1, 2 as in Wan 2.2 A14B.
        sampler: diffusers' scheduler class.
        shard_size: Largest weight file (``"20KB"``); ``None`` for one file per component.
        seed: Of the weights.
        heads: Attention heads of the transformer.
    """
    pipeline = WanPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=tiny_text_encoder(seed),
        vae=tiny_wan_vae(seed),
        scheduler=tiny_scheduler(sampler),
        transformer=tiny_wan_transformer(seed, num_attention_heads=heads),
        transformer_2=tiny_wan_transformer(seed + 1) if experts == 2 else None,
        boundary_ratio=BOUNDARY if experts == 2 else None,
    )
    return save_folder(pipeline, path, shard_size)


def tiny_wan_transformer(seed: int = 0, **changes: Any) -> Any:
    """Return a ``WanTransformer3DModel`` of random weights; ``changes`` go to its configuration."""
    return randomize(WanTransformer3DModel(**WAN_SIZES | changes), seed)


def tiny_wan_vae(seed: int = 0) -> Any:
    """Return an ``AutoencoderKLWan`` of random weights: 8 times smaller, 4 times fewer frames."""
    return randomize(
        AutoencoderKLWan(
            base_dim=4,
            z_dim=CHANNELS,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[-0.3, 0.1, 0.4, 0.0],
            latents_std=[1.5, 0.7, 1.1, 2.3],
        ),
        seed,
    )


def wan_pictures(vae: Any, latents: Tensor) -> Tensor:
    """Decode a whole video as ``WanPipeline`` does, in the dtype of its latents.

    Args:
        vae: An ``AutoencoderKLWan``, cast to that dtype.
        latents: ``(1, C, F, H, W)``.

    Returns:
        ``(frames, 3, height, width)``.
    """
    mean, std = (
        latents.new_tensor(numbers).view(1, -1, 1, 1, 1)
        for numbers in (vae.config.latents_mean, vae.config.latents_std)
    )
    vae = vae.to(latents.dtype)
    video: Tensor = vae.decode(latents / (1.0 / std) + mean, return_dict=False)[0]
    return video[0].transpose(0, 1)


def tiny_tokenizer(*, closed: bool = False) -> Any:
    """Return a tokenizer of a few whole words; ``closed`` ends every prompt with ``</s>``."""
    return word_tokenizer(_WORDS, closed=closed, model_max_length=TOKENS)


def tiny_text_encoder(seed: int = 0, kind: str = "UMT5") -> Any:
    """Return a text encoder of random weights; ``kind`` is ``T5`` or ``UMT5``."""
    return t5_encoder(len(_WORDS), TEXT_DIM, seed, kind)


def tiny_scheduler(sampler: str = "UniPCMultistepScheduler") -> Any:
    """Return a flow-matching diffusers scheduler of class ``sampler`` (``class-variant``)."""
    name = sampler.partition("-")[0]
    return getattr(diffusers, name)(num_train_timesteps=1000, **_SAMPLERS[sampler])


def tiny_wan_spec(experts: int = 1, heads: int = 2) -> BackboneSpec:
    """Return the spec of ``tiny_wan_backbone``."""
    return BackboneSpec(
        name="tiny Wan",
        channels=CHANNELS,
        patch=(1, 2, 2),
        heads=heads,
        head_dim=12,
        layers=LAYERS,
        native_frames=21,
        compression=Compression(temporal=4, spatial=8),
        experts=experts,
        boundary=BOUNDARY if experts == 2 else None,
        start="replaced",
        frame_levels=True,
        moves_keys=True,
    )


def tiny_wan_backbone(
    layers: Collection[int] = range(LAYERS), experts: int = 1, seed: int = 0, heads: int = 2
) -> WanBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    seeds = range(seed, seed + experts)
    transformers = [tiny_wan_transformer(seed, num_attention_heads=heads) for seed in seeds]
    for transformer in transformers:
        drop_layers(transformer.blocks, layers)
    return WanBackbone(tiny_wan_spec(experts, heads), transformers, layers)


TINY_HARDWARE = Hardware(
    name="made up",
    matmul=1e10,
    convolution=1e10,
    bandwidth=1e9,
    latency=1e-4,
    launch=0.0,
    memory=1e9,
)
"""A device and a link, in round numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyCase:
    """A small denoising as data: every rank of a test can build its own view of it.

    Args:
        scheduler: Cuts and orders.
        latent_frames: Length of the video; ``None`` for an endless one.
        steps: Denoising steps.
        cache: How tasks see their neighbors.
        noise: The starting noise of every block.
        sampler: diffusers' scheduler class.
        scales: Guidance scale per expert.
        guidance: Makes the guidance of its settings.
        reuse: When layers are reused.
        second_prompt_at: Latent frame from which on blocks have another prompt.
        frame_levels: Whether the model is told a timestep per frame.
        seed: Of weights, noise and prompts.
        heads: Attention heads.
    """

    scheduler: BlockScheduler = field(default_factory=lambda: FifoQueue(3, 2))
    latent_frames: int | None = 11
    steps: int = 4
    cache: FeatureCache = field(default_factory=NextBlockKV)
    noise: NoiseInit = field(default_factory=SharedPool)
    sampler: str = "UniPCMultistepScheduler"
    scales: tuple[float, ...] = (5.0,)
    guidance: Callable[[GuidanceSettings], Guidance] = ClassifierFreeGuidance
    reuse: LayerReuse | None = None
    second_prompt_at: int | None = None
    frame_levels: bool = False
    seed: int = 0
    heads: int = 2

    @property
    def spec(self) -> BackboneSpec:
        """The backbone's spec."""
        spec = tiny_wan_spec(len(self.scales), self.heads)
        return spec.with_frame_levels() if self.frame_levels else spec

    @property
    def guided(self) -> Guidance:
        """The guidance."""
        return self.guidance(GuidanceSettings(scales=self.scales, layers=LAYERS))

    @property
    def workload(self) -> Workload:
        """What a strategy's layout is made for."""
        return Workload(
            spec=self.spec,
            scheduler=self.scheduler,
            latent_frames=self.latent_frames,
            steps=self.steps,
            cache=self.cache,
            branches=len(self.guided.branches),
            height=HEIGHT,
            width=WIDTH,
            item_bytes=4,
            flops=Flops(embed=8e2, layer=1.2e4, attention=1e2, head=8e2, decode=1e6),
            hardware=TINY_HARDWARE,
            prompt_changes=() if self.second_prompt_at is None else (self.second_prompt_at,),
        )


def tiny_prompts(rows: int, seed: int = 0) -> PromptStates:
    """Return text encoder states of made-up prompts."""
    generator = torch.Generator().manual_seed(seed)
    return {"states": torch.randn(rows, TOKENS, TEXT_DIM, generator=generator)}


def tiny_masked_prompts(rows: int, seed: int = 0) -> PromptStates:
    """Return text encoder states of made-up prompts, each one token shorter than the one before."""
    lengths = TOKENS - 2 - torch.arange(rows)
    return {**tiny_prompts(rows, seed), "mask": torch.arange(TOKENS) < lengths[:, None]}


@torch.no_grad()
def tiny_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
) -> Denoising:
    """Begin a request: return the work of one rank that holds ``layers``. It can be run once.

    Args:
        case: What is denoised.
        layers: What the strategy asked for on this rank.
        communicator: The ranks of the run; ``None`` for one rank.
    """
    communicator = communicator or Communicator.alone()
    communicator.begin_request()
    backbone = tiny_wan_backbone(layers, len(case.scales), case.seed, case.heads)
    backbone.spec = case.spec
    guidance = case.guided
    change = math.inf if case.second_prompt_at is None else case.second_prompt_at

    @cache
    def text(frames: FrameRange, branches: range) -> Any:
        pair = split_prompts(tiny_prompts(2, 2 if frames.start >= change else 1))
        rows = [pair[guidance.branches[branch].negative] for branch in branches]
        return backbone.condition_text(join_prompts(rows))

    source = NoiseSource(seed=case.seed, channels=CHANNELS, height=HEIGHT, width=WIDTH)
    return Denoising(
        backbone=backbone,
        tasks=case.workload.tasks(),
        noise=case.noise.blocks(source, case.scheduler.blocks(case.latent_frames)),
        cache=case.cache,
        sampler=DiffusersSampler(tiny_scheduler(case.sampler), case.steps),
        guidance=guidance,
        text=text,
        height=source.height,
        width=source.width,
        device=torch.device("cpu"),
        communicator=communicator,
        step_noise=DrawnStepNoise(source),
        reuse=case.reuse,
    )
