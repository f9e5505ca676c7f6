"""Tiny Mochi: random weights, a pipeline folder on disk, or in memory."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLMochi,
    FlowMatchEulerDiscreteScheduler,
    MochiPipeline,
    MochiTransformer3DModel,
)

from longtake.models import (
    BackboneSpec,
    Compression,
    DiffusersSampler,
    ModelFolder,
    PromptStates,
)
from longtake.models.mochi import MochiBackbone, MochiFamily
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import (
    CHANNELS,
    LAYERS,
    TEXT_DIM,
    TOKENS,
    TinyCase,
    tiny_denoising,
    tiny_masked_prompts,
    tiny_text_encoder,
    tiny_tokenizer,
)
from longtake.testing.tiny.parts import (
    drop_layers,
    of_backbone,
    randomize,
    save_folder,
)

TEXT_WIDTH = 16
"""Width of the text tokens; video tokens are 24 wide."""


def tiny_mochi_folder(
    path: Path, *, shard_size: str | None = None, seed: int = 0, zeros: bool = True
) -> ModelFolder:
    """Save a random-weight ``MochiPipeline`` as diffusers does, and open it.

    Args:
        path: Where to.
        shard_size: Largest weight file (``"20KB"``); ``None`` for one file per component.
        seed: Of the weights.
        zeros: Whether the empty prompt has no tokens at all.
    """
    pipeline = MochiPipeline(
        scheduler=tiny_mochi_scheduler(),
        vae=tiny_mochi_vae(seed),
        text_encoder=tiny_text_encoder(seed, "T5"),
        tokenizer=tiny_tokenizer(closed=True),
        transformer=tiny_mochi_transformer(seed),
        force_zeros_for_empty_prompt=zeros,
    )
    return save_folder(pipeline, path, shard_size)


def tiny_mochi_scheduler() -> Any:
    """Return a scheduler that counts noise levels up, as Mochi's does."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, invert_sigmas=True)


def tiny_mochi_transformer(seed: int = 0) -> Any:
    """Return a ``MochiTransformer3DModel`` of random weights."""
    transformer = MochiTransformer3DModel(
        in_channels=CHANNELS,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=LAYERS,
        pooled_projection_dim=TEXT_WIDTH,
        text_embed_dim=TEXT_DIM,
        time_embed_dim=16,
    )
    return randomize(transformer, seed)


def tiny_mochi_vae(seed: int = 0) -> Any:
    """Return an ``AutoencoderKLMochi`` of random weights: 8 times smaller, 6 times fewer frames."""
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        latent_channels=CHANNELS,
        layers_per_block=(1, 1, 1, 1, 1),
        latents_mean=(-0.3, 0.1, 0.4, 0.0),
        latents_std=(1.5, 0.7, 1.1, 2.3),
        scaling_factor=0.8,
    )
    return randomize(vae, seed)


def tiny_mochi_spec() -> BackboneSpec:
    """Return the spec of ``tiny_mochi_backbone``."""
    return BackboneSpec(
        name="tiny Mochi",
        channels=CHANNELS,
        patch=(1, 2, 2),
        heads=2,
        head_dim=12,
        layers=LAYERS,
        native_frames=28,
        compression=Compression(temporal=6, spatial=8),
        text_tokens=TOKENS,
    )


def tiny_mochi_backbone(layers: Collection[int] = range(LAYERS), seed: int = 0) -> MochiBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_mochi_transformer(seed)
    drop_layers(transformer.transformer_blocks, layers)
    return MochiBackbone(tiny_mochi_spec(), transformer, layers)


@torch.no_grad()
def tiny_mochi_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
    prompts: PromptStates | None = None,
) -> Denoising:
    """Return the work of one rank that holds ``layers``. It can be run once.

    Args:
        case: What is denoised; the sampler is Mochi's own.
        layers: What the strategy asked for on this rank.
        communicator: The ranks of the run; ``None`` for one rank.
        prompts: One row per branch; ``None`` for made-up ones.
    """
    backbone = tiny_mochi_backbone(layers, case.seed)
    sampler = DiffusersSampler(tiny_mochi_scheduler(), case.steps, MochiFamily().sigmas(case.steps))
    work = tiny_denoising(case, layers, communicator)
    rows = prompts or tiny_masked_prompts(len(work.guidance.branches))
    return of_backbone(work, backbone, rows, sampler=sampler)
