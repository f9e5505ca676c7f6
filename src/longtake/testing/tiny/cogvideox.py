"""Tiny CogVideoX: random weights, a pipeline folder on disk, or in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

from longtake.models import (
    BackboneSpec,
    Compression,
    ConditioningFrames,
    DiffusersSampler,
    ModelFolder,
)
from longtake.models.cogvideox import CogVideoXBackbone, before_the_video
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import (
    CHANNELS,
    HEIGHT,
    LAYERS,
    TEXT_DIM,
    TOKENS,
    WIDTH,
    TinyCase,
    tiny_denoising,
    tiny_prompts,
    tiny_text_encoder,
    tiny_tokenizer,
)
from longtake.testing.tiny.parts import (
    drop_layers,
    of_backbone,
    randomize,
    save_folder,
)


def tiny_cogvideox_folder(
    path: Path,
    *,
    rotary: bool = True,
    sampler: str = "CogVideoXDDIMScheduler",
    shard_size: str | None = None,
    seed: int = 0,
) -> ModelFolder:
    """Save a random-weight ``CogVideoXPipeline`` as diffusers does, and open it.

    Args:
        path: Where to.
        rotary: Positions as in CogVideoX-5B; else as in 2B.
        sampler: diffusers' scheduler class.
        shard_size: Largest weight file (``"20KB"``); ``None`` for one file per component.
        seed: Of the weights.
    """
    pipeline = CogVideoXPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=tiny_text_encoder(seed, "T5"),
        vae=tiny_cogvideox_vae(seed),
        transformer=tiny_cogvideox_transformer(rotary, seed),
        scheduler=tiny_cogvideox_scheduler(sampler),
    )
    return save_folder(pipeline, path, shard_size)


def tiny_cogvideox_i2v_folder(path: Path, *, seed: int = 0) -> ModelFolder:
    """Save a random-weight ``CogVideoXImageToVideoPipeline`` as diffusers does, and open it."""
    pipeline = CogVideoXImageToVideoPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=tiny_text_encoder(seed, "T5"),
        vae=tiny_cogvideox_vae(seed),
        transformer=tiny_cogvideox_i2v_transformer(seed),
        scheduler=tiny_cogvideox_scheduler(),
    )
    return save_folder(pipeline, path)


@torch.no_grad()
def tiny_cogvideox_i2v_transformer(seed: int = 0) -> Any:
    """Return a transformer of random weights and learned positions, as CogVideoX-5B I2V's.

    It takes clips of one size alone: ``HEIGHT`` and ``WIDTH`` of ``tiny.base``, 13 latent frames.
    """
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=16,
        in_channels=2 * CHANNELS,
        out_channels=CHANNELS,
        time_embed_dim=8,
        text_embed_dim=TEXT_DIM,
        num_layers=LAYERS,
        sample_width=WIDTH,
        sample_height=HEIGHT,
        max_text_seq_length=TOKENS,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    )
    randomize(transformer, seed)
    table = transformer.patch_embed.pos_embedding[:, TOKENS:]  # text has none, as published
    table.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(seed)))
    return transformer


def tiny_cogvideox_i2v_spec() -> BackboneSpec:
    """Return the spec of ``tiny_cogvideox_i2v_backbone``."""
    return replace(
        tiny_cogvideox_spec(),
        name="tiny CogVideoX I2V",
        start="channels",
        native=("start",),
        learned_frames=13,
    )


def tiny_cogvideox_i2v_backbone(
    layers: Collection[int] = range(LAYERS), seed: int = 0
) -> CogVideoXBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_cogvideox_i2v_transformer(seed)
    drop_layers(transformer.transformer_blocks, layers)
    return CogVideoXBackbone(tiny_cogvideox_i2v_spec(), transformer, layers)


def tiny_cogvideox15_folder(
    path: Path, *, shard_size: str | None = None, seed: int = 0
) -> ModelFolder:
    """Save a random-weight ``CogVideoXPipeline`` of two latent frames per token, and open it."""
    pipeline = CogVideoXPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=tiny_text_encoder(seed, "T5"),
        vae=tiny_cogvideox_vae(seed),
        transformer=tiny_cogvideox15_transformer(seed),
        scheduler=tiny_cogvideox_scheduler(),
    )
    return save_folder(pipeline, path, shard_size)


def tiny_cogvideox15_transformer(seed: int = 0, *, image: bool = False) -> Any:
    """Return a transformer of random weights, as CogVideoX 1.5's.

    Args:
        seed: Of the weights.
        image: As that from an image.
    """
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=16,
        in_channels=2 * CHANNELS if image else CHANNELS,
        ofs_embed_dim=8 if image else None,
        out_channels=CHANNELS,
        patch_size_t=2,
        time_embed_dim=8,
        text_embed_dim=TEXT_DIM,
        num_layers=LAYERS,
        sample_width=24,
        sample_height=24,
        sample_frames=81,
        max_text_seq_length=TOKENS,
        use_rotary_positional_embeddings=True,
    )
    return randomize(transformer, seed)


def tiny_cogvideox15_spec() -> BackboneSpec:
    """Return the spec of ``tiny_cogvideox15_backbone``: its latent frames are pairs."""
    return replace(
        tiny_cogvideox_spec(),
        name="tiny CogVideoX 1.5",
        channels=2 * CHANNELS,
        native_frames=11,
        compression=Compression(temporal=8, spatial=8),
    )


def tiny_cogvideox15_backbone(
    layers: Collection[int] = range(LAYERS), seed: int = 0, *, image: bool = False
) -> CogVideoXBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer, spec = tiny_cogvideox15_transformer(seed, image=image), tiny_cogvideox15_spec()
    drop_layers(transformer.transformer_blocks, layers)
    if image:
        spec = replace(spec, start="channels", native=("start",))
    return CogVideoXBackbone(spec, transformer, layers)


def tiny_cogvideox15_start(seed: int = 7) -> ConditioningFrames:
    """Return what the model from an image is told of it."""
    shape = (1, 2 * CHANNELS, 1, HEIGHT, WIDTH)
    pair = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    told = before_the_video(pair)
    return ConditioningFrames(
        latents=pair, channels=torch.cat([told, torch.zeros_like(told)], dim=2)
    )


@torch.no_grad()
def tiny_cogvideox15_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
    *,
    image: bool = False,
) -> Denoising:
    """Return the work of one rank that holds ``layers``, under DDIM. It can be run once."""
    work = tiny_denoising(case, layers, communicator)
    backbone = tiny_cogvideox15_backbone(layers, case.seed, image=image)
    sampler = DiffusersSampler(tiny_cogvideox_scheduler(), case.steps)
    noise = (torch.cat([one, one.flip(1)], dim=1) for one in work.noise)
    work = replace(work, noise=noise, start=tiny_cogvideox15_start() if image else None)
    return of_backbone(work, backbone, tiny_prompts(len(work.guidance.branches)), sampler=sampler)


def tiny_cogvideox_transformer(rotary: bool = True, seed: int = 0) -> Any:
    """Return a ``CogVideoXTransformer3DModel`` of random weights.

    Its own picture is higher than wide, so that a test's picture is cropped from the midst of it.
    """
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        time_embed_dim=8,
        text_embed_dim=TEXT_DIM,
        num_layers=LAYERS,
        sample_width=8,
        sample_height=12,
        max_text_seq_length=TOKENS,
        use_rotary_positional_embeddings=rotary,
    )
    return randomize(transformer, seed)


def tiny_cogvideox_vae(seed: int = 0) -> Any:
    """Return an ``AutoencoderKLCogVideoX`` of random weights: 8 times smaller, 4 times fewer."""
    vae = AutoencoderKLCogVideoX(
        latent_channels=CHANNELS,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=96,
        sample_width=80,
    )
    return randomize(vae, seed)


def tiny_cogvideox_scheduler(sampler: str = "CogVideoXDDIMScheduler", **changes: Any) -> Any:
    """Return a diffusers scheduler of class ``sampler``, configured as CogVideoX-2B ships it."""
    config = {
        "beta_end": 0.012,
        "clip_sample": False,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "snr_shift_scale": 3.0,
        "timestep_spacing": "trailing",
    }
    return getattr(diffusers, sampler).from_config(config | changes)


def tiny_cogvideox_spec() -> BackboneSpec:
    """Return the spec of ``tiny_cogvideox_backbone``."""
    return BackboneSpec(
        name="tiny CogVideoX",
        channels=CHANNELS,
        patch=(1, 2, 2),
        heads=3,
        head_dim=16,
        layers=LAYERS,
        native_frames=13,
        compression=Compression(temporal=4, spatial=8),
        text_tokens=TOKENS,
        start="replaced",
    )


def tiny_cogvideox_backbone(
    layers: Collection[int] = range(LAYERS), rotary: bool = True, seed: int = 0
) -> CogVideoXBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_cogvideox_transformer(rotary, seed)
    drop_layers(transformer.transformer_blocks, layers)
    return CogVideoXBackbone(tiny_cogvideox_spec(), transformer, layers)


@torch.no_grad()
def tiny_cogvideox_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
    rotary: bool = True,
) -> Denoising:
    """Return the work of one rank that holds ``layers``, under DDIM. It can be run once.

    Args:
        case: What is denoised.
        layers: What the strategy asked for on this rank.
        communicator: The ranks of the run; ``None`` for one rank.
        rotary: Positions as in CogVideoX-5B; else as in 2B.
    """
    work = tiny_denoising(case, layers, communicator)
    backbone = tiny_cogvideox_backbone(layers, rotary, case.seed)
    sampler = DiffusersSampler(tiny_cogvideox_scheduler(), case.steps)
    prompts = tiny_prompts(len(work.guidance.branches))
    return of_backbone(work, backbone, prompts, sampler=sampler)
