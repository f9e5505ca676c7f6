"""Tiny LTX-Video: random weights, a pipeline folder on disk, or in memory."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)

from longtake.models import BackboneSpec, Compression, ModelFolder, PromptStates
from longtake.models.ltx import LTXBackbone
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import (
    CHANNELS,
    LAYERS,
    TEXT_DIM,
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

HEADS, HEAD_DIM = 2, 10
"""Together 20 channels: 9 pairs for three axes, and one that stands still."""

_VAE: dict[str, Any] = {
    "latent_channels": CHANNELS,
    "block_out_channels": (4, 4, 4, 4),
    "layers_per_block": (1, 1, 1, 1, 1),
}
_PLAIN: dict[str, Any] = {
    "decoder_block_out_channels": (8, 8, 16, 16),
    "decoder_layers_per_block": (1, 1, 1, 1, 1),
}
CONDITIONED: dict[str, Any] = {
    "decoder_block_out_channels": (8, 16, 32),
    "decoder_layers_per_block": (1, 1, 1, 1),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (True, True, True, False),
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
}
"""Configuration of a decoder that takes a timestep, as since LTX-Video 0.9.1."""

SINCE_095: dict[str, Any] = {
    "block_out_channels": (8, 8, 8, 8, 8),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "layers_per_block": (1, 1, 1, 1, 1),
    "spatio_temporal_scaling": (True, True, True, True),
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "decoder_inject_noise": (False, False, False, False),
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
"""What the configuration of a VAE has besides since LTX-Video 0.9.5."""


def tiny_ltx_folder(
    path: Path, *, shard_size: str | None = None, seed: int = 0, conditioned: bool = False
) -> ModelFolder:
    """Save a random-weight ``LTXPipeline`` as diffusers does, and open it.

    Args:
        path: Where to.
        shard_size: Largest weight file (``"20KB"``); ``None`` for one file per component.
        seed: Of the weights.
        conditioned: Whether the VAE's decoder takes a timestep, as since LTX-Video 0.9.1.
    """
    pipeline = LTXPipeline(
        scheduler=tiny_ltx_scheduler(),
        vae=tiny_ltx_vae(seed, conditioned=conditioned),
        text_encoder=tiny_text_encoder(seed, "T5"),
        tokenizer=tiny_tokenizer(closed=True),
        transformer=tiny_ltx_transformer(seed),
    )
    return save_folder(pipeline, path, shard_size)


def tiny_ltx_condition_folder(
    path: Path, *, shard_size: str | None = None, seed: int = 0
) -> ModelFolder:
    """Save a random-weight ``LTXConditionPipeline``, as since LTX-Video 0.9.5, and open it.

    Args:
        path: Where to.
        shard_size: Largest weight file (``"20KB"``); ``None`` for one file per component.
        seed: Of the weights.
    """
    pipeline = LTXConditionPipeline(
        scheduler=tiny_ltx_condition_scheduler(),
        vae=tiny_ltx_condition_vae(seed),
        text_encoder=tiny_text_encoder(seed, "T5"),
        tokenizer=tiny_tokenizer(closed=True),
        transformer=tiny_ltx_transformer(seed),
    )
    return save_folder(pipeline, path, shard_size)


def tiny_ltx_condition_scheduler() -> Any:
    """Return a scheduler with the settings of LTX-Video 0.9.5: its levels are given to it."""
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False)


def tiny_ltx_condition_vae(seed: int = 0) -> Any:
    """Return an ``AutoencoderKLLTXVideo`` of random weights, as since LTX-Video 0.9.5."""
    return tiny_ltx_vae(seed, conditioned=True, **SINCE_095)


def tiny_ltx_scheduler() -> Any:
    """Return a scheduler with LTX-Video's own settings: a shift that grows with the clip."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )


def tiny_ltx_transformer(seed: int = 0) -> Any:
    """Return an ``LTXVideoTransformer3DModel`` of random weights."""
    transformer = LTXVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        cross_attention_dim=HEADS * HEAD_DIM,
        num_layers=LAYERS,
        caption_channels=TEXT_DIM,
    )
    return randomize(transformer, seed)


@torch.no_grad()
def tiny_ltx_vae(seed: int = 0, *, conditioned: bool = False, **changes: Any) -> Any:
    """Return an ``AutoencoderKLLTXVideo`` of random weights: 32 times smaller, 8 times fewer.

    Args:
        seed: Of the weights.
        conditioned: Whether its decoder takes a timestep and adds noise, as LTX-Video 0.9.1's.
        changes: To its configuration.
    """
    vae = AutoencoderKLLTXVideo(**_VAE | (CONDITIONED if conditioned else _PLAIN) | changes)
    randomize_ltx_vae(vae, seed)
    generator = torch.Generator().manual_seed(seed)
    vae.latents_mean.copy_(torch.randn(CHANNELS, generator=generator))
    vae.latents_std.copy_(torch.rand(CHANNELS, generator=generator) + 0.5)
    return vae.requires_grad_(False)


def randomize_ltx_vae(vae: Any, seed: int) -> Any:
    """Give every weight random values, but not the decoder's only other parameter, a number."""
    decoder = vae.decoder
    multiplier, decoder.timestep_scale_multiplier = decoder.timestep_scale_multiplier, None
    randomize(vae, seed)
    decoder.timestep_scale_multiplier = multiplier
    return vae


def tiny_ltx_spec() -> BackboneSpec:
    """Return the spec of ``tiny_ltx_backbone``."""
    return BackboneSpec(
        name="tiny LTX-Video",
        channels=CHANNELS,
        patch=(1, 1, 1),
        heads=HEADS,
        head_dim=HEAD_DIM,
        layers=LAYERS,
        native_frames=21,
        compression=Compression(temporal=8, spatial=32),
        timestep="frame",
        start="replaced",
        native=("start",),
    )


def tiny_ltx_backbone(layers: Collection[int] = range(LAYERS), seed: int = 0) -> LTXBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_ltx_transformer(seed)
    drop_layers(transformer.transformer_blocks, layers)
    return LTXBackbone(tiny_ltx_spec(), transformer, layers)


def tiny_ltx_condition_backbone(
    layers: Collection[int] = range(LAYERS), seed: int = 0
) -> LTXBackbone:
    """Return a backbone as ``tiny_ltx_backbone``, with positions as since LTX-Video 0.9.5."""
    transformer, spec = tiny_ltx_transformer(seed), tiny_ltx_spec()
    drop_layers(transformer.transformer_blocks, layers)
    return LTXBackbone(spec, transformer, layers, lead=spec.compression.temporal - 1)


@torch.no_grad()
def tiny_ltx_condition_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
    prompts: PromptStates | None = None,
) -> Denoising:
    """Return the work of ``tiny_ltx_denoising``, with positions as since LTX-Video 0.9.5."""
    work = tiny_denoising(case, layers, communicator)
    backbone = tiny_ltx_condition_backbone(layers, case.seed)
    return of_backbone(work, backbone, prompts or tiny_masked_prompts(len(work.guidance.branches)))


@torch.no_grad()
def tiny_ltx_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
    prompts: PromptStates | None = None,
) -> Denoising:
    """Return the work of one rank that holds ``layers``. It can be run once.

    Args:
        case: What is denoised.
        layers: What the strategy asked for on this rank.
        communicator: The ranks of the run; ``None`` for one rank.
        prompts: One row per branch; ``None`` for made-up ones.
    """
    backbone = tiny_ltx_backbone(layers, case.seed)
    work = tiny_denoising(case, layers, communicator)
    return of_backbone(work, backbone, prompts or tiny_masked_prompts(len(work.guidance.branches)))
