"""Tiny HunyuanVideo I2V: random weights in memory, beside the text-to-video ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch

from longtake.models import BackboneSpec, ConditioningFrames
from longtake.models.hunyuan_video import HunyuanVideoBackbone
from longtake.models.hunyuan_video.image_channels import image_channels
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import CHANNELS, HEIGHT, LAYERS, WIDTH, TinyCase
from longtake.testing.tiny.hunyuan_video import (
    DUAL,
    tiny_hunyuan_denoising,
    tiny_hunyuan_prompts,
    tiny_hunyuan_spec,
    tiny_hunyuan_transformer,
)
from longtake.testing.tiny.parts import drop_layers, of_backbone


def tiny_hunyuan_i2v_transformer(condition: str, seed: int = 0) -> Any:
    """Return a ``HunyuanVideoTransformer3DModel`` of random weights.

    Args:
        condition: How it is told of the image: ``token_replace`` (its guidance is embedded) or
            ``latent_concat`` (it has branches), as published.
        seed: Of the weights.
    """
    changes: dict[str, Any] = {"image_condition_type": condition}
    if condition == "latent_concat":
        changes |= {"in_channels": 2 * CHANNELS + 1, "guidance_embeds": False}
    return tiny_hunyuan_transformer(seed, **changes)


def tiny_hunyuan_i2v_spec(condition: str) -> BackboneSpec:
    """Return the spec of ``tiny_hunyuan_i2v_backbone``."""
    replaced = condition == "token_replace"
    return replace(
        tiny_hunyuan_spec(),
        name="tiny HunyuanVideo I2V",
        guidance="embedded" if replaced else "branches",
        start="given" if replaced else "channels",
        native=("start",),
        image_in_noise=0.001,
        reads_picture=True,
    )


def tiny_hunyuan_i2v_backbone(
    condition: str, layers: Collection[int] = range(LAYERS), seed: int = 0
) -> HunyuanVideoBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_hunyuan_i2v_transformer(condition, seed)
    drop_layers(transformer.transformer_blocks, layers)
    drop_layers(transformer.single_transformer_blocks, layers, first=DUAL)
    return HunyuanVideoBackbone(tiny_hunyuan_i2v_spec(condition), transformer, layers)


def tiny_hunyuan_start(condition: str, seed: int = 0) -> ConditioningFrames:
    """Return a made-up start of one latent frame."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, CHANNELS, 1, HEIGHT, WIDTH, generator=generator)
    told = condition == "latent_concat"
    return ConditioningFrames(latents=latents, channels=image_channels(latents) if told else None)


@torch.no_grad()
def tiny_hunyuan_i2v_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
    condition: str = "token_replace",
    start: ConditioningFrames | None = None,
) -> Denoising:
    """Return the work of one rank that holds ``layers``. It can be run once.

    Args:
        case: What is denoised.
        layers: What the strategy asked for on this rank.
        communicator: The ranks of the run; ``None`` for one rank.
        condition: How the transformer is told of the image.
        start: What the video begins with; ``None`` for a made-up one.
    """
    work = tiny_hunyuan_denoising(case, layers, communicator)
    backbone = tiny_hunyuan_i2v_backbone(condition, layers, case.seed)
    prompts = tiny_hunyuan_prompts(len(work.guidance.branches))
    return of_backbone(work, backbone, prompts, start=start or tiny_hunyuan_start(condition))
