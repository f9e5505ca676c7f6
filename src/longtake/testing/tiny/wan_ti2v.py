"""Tiny Wan 2.2 TI2V: random weights, a pipeline folder on disk, or in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline

from longtake.models import BackboneSpec, Compression, ModelFolder
from longtake.models.wan import WanBackbone
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import (
    CHANNELS,
    LAYERS,
    TinyCase,
    tiny_denoising,
    tiny_scheduler,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_wan_spec,
    tiny_wan_transformer,
)
from longtake.testing.tiny.parts import (
    drop_layers,
    randomize,
    save_folder,
)


def tiny_ti2v_folder(path: Path, *, shard_size: str | None = None, seed: int = 0) -> ModelFolder:
    """Save a random-weight ``WanPipeline`` with a timestep per frame, and open it.

    Args:
        path: Where to.
        shard_size: Largest weight file (``"20KB"``); ``None`` for one file per component.
        seed: Of the weights.
    """
    pipeline = WanPipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=tiny_text_encoder(seed),
        vae=tiny_ti2v_vae(seed),
        scheduler=tiny_scheduler(),
        transformer=tiny_wan_transformer(seed),
        expand_timesteps=True,
    )
    return save_folder(pipeline, path, shard_size)


def tiny_ti2v_vae(seed: int = 0) -> Any:
    """Return a residual ``AutoencoderKLWan`` whose pictures are patches: 16 times smaller."""
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=8,
        z_dim=CHANNELS,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[-0.3, 0.1, 0.4, 0.0],
        latents_std=[1.5, 0.7, 1.1, 2.3],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
    )
    return randomize(vae, seed)


def tiny_ti2v_spec() -> BackboneSpec:
    """Return the spec of ``tiny_ti2v_backbone``."""
    return replace(
        tiny_wan_spec(),
        name="tiny Wan TI2V",
        native_frames=31,
        compression=Compression(temporal=4, spatial=16),
        start="replaced",
        native=("start",),
        timestep="frame",
    )


def tiny_ti2v_backbone(layers: Collection[int] = range(LAYERS), seed: int = 0) -> WanBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_wan_transformer(seed)
    drop_layers(transformer.blocks, layers)
    return WanBackbone(tiny_ti2v_spec(), [transformer], layers)


@torch.no_grad()
def tiny_ti2v_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
) -> Denoising:
    """Return the work of one rank that holds ``layers``. It can be run once.

    Args:
        case: What is denoised.
        layers: What the strategy asked for on this rank.
        communicator: The ranks of the run; ``None`` for one rank.
    """
    work = tiny_denoising(case, layers, communicator)
    return replace(work, backbone=tiny_ti2v_backbone(layers, case.seed))
