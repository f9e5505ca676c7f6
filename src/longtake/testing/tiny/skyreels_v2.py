"""Tiny SkyReels-V2: random weights, a pipeline folder on disk, or in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
)
from transformers import CLIPVisionModelWithProjection

from longtake.models import BackboneSpec, ModelFolder
from longtake.models.skyreels_v2 import skyreels_v2_backbone
from longtake.models.wan import WanBackbone
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import (
    CHANNELS,
    LAYERS,
    WAN_SIZES,
    TinyCase,
    tiny_denoising,
    tiny_prompts,
    tiny_scheduler,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_wan_spec,
    tiny_wan_vae,
)
from longtake.testing.tiny.parts import (
    drop_layers,
    of_backbone,
    randomize,
    save_folder,
)
from longtake.testing.tiny.wan_i2v import (
    IMAGE_DIM,
    TEXT_TOKENS,
    tiny_image_encoder,
    tiny_image_processor,
)


def tiny_skyreels_folder(
    path: Path,
    *,
    diffusion_forcing: bool = True,
    sampler: str = "UniPCMultistepScheduler",
    shard_size: str | None = None,
    seed: int = 0,
    **changes: Any,
) -> ModelFolder:
    """Save a random-weight SkyReels-V2 pipeline as diffusers does, and open it.

    Args:
        path: Where to.
        diffusion_forcing: Whether the timestep may differ per frame, and the frame rate is
            embedded beside it.
        sampler: diffusers' scheduler class.
        shard_size: Largest weight file (``"20KB"``); ``None`` for one file per component.
        seed: Of the weights.
        changes: To the transformer's configuration.
    """
    forcing = SkyReelsV2DiffusionForcingPipeline
    changes = {"inject_sample_info": diffusion_forcing} | changes
    pipeline = (forcing if diffusion_forcing else SkyReelsV2Pipeline)(
        tokenizer=tiny_tokenizer(),
        text_encoder=tiny_text_encoder(seed),
        transformer=tiny_skyreels_transformer(seed, **changes),
        vae=tiny_wan_vae(seed),
        scheduler=tiny_scheduler(sampler),
    )
    return save_folder(pipeline, path, shard_size)


def tiny_skyreels_i2v_folder(path: Path, *, seed: int = 0, **changes: Any) -> ModelFolder:
    """Save a random-weight ``SkyReelsV2ImageToVideoPipeline`` as diffusers does, and open it.

    Args:
        path: Where to.
        seed: Of the weights.
        changes: To the transformer's configuration.
    """
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = TEXT_TOKENS
    pipeline = SkyReelsV2ImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=tiny_text_encoder(seed),
        image_encoder=tiny_image_encoder(seed, CLIPVisionModelWithProjection),
        image_processor=tiny_image_processor(),
        transformer=tiny_skyreels_i2v_transformer(seed, **changes),
        vae=tiny_wan_vae(seed),
        scheduler=tiny_scheduler(),
    )
    return save_folder(pipeline, path)


def tiny_skyreels_i2v_transformer(seed: int = 0, **changes: Any) -> Any:
    """Return a transformer with input channels for given frames, which reads an image as well."""
    image: dict[str, Any] = {
        "in_channels": CHANNELS + 4 + CHANNELS,
        "image_dim": IMAGE_DIM,
        "added_kv_proj_dim": 24,
        "inject_sample_info": False,
    }
    return tiny_skyreels_transformer(seed, **image | changes)


def tiny_skyreels_i2v_spec() -> BackboneSpec:
    """Return the spec of ``tiny_skyreels_i2v_backbone``."""
    return replace(
        tiny_skyreels_spec(),
        name="tiny SkyReels-V2 I2V",
        start="channels",
        native=("start",),
        timestep="clip",
    )


def tiny_skyreels_i2v_backbone(
    layers: Collection[int] = range(LAYERS), seed: int = 0
) -> WanBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_skyreels_i2v_transformer(seed)
    drop_layers(transformer.blocks, layers)
    return skyreels_v2_backbone(tiny_skyreels_i2v_spec(), transformer, layers)


def tiny_skyreels_transformer(seed: int = 0, **changes: Any) -> Any:
    """Return a ``SkyReelsV2Transformer3DModel`` of random weights."""
    config = WAN_SIZES | {"inject_sample_info": True}
    return randomize(SkyReelsV2Transformer3DModel(**config | changes), seed)


def tiny_skyreels_spec() -> BackboneSpec:
    """Return the spec of ``tiny_skyreels_backbone``."""
    return replace(
        tiny_wan_spec(),
        name="tiny SkyReels-V2",
        native_frames=25,
        start="replaced",
        native=("start", "continue"),
        timestep="frame",
    )


def tiny_skyreels_backbone(layers: Collection[int] = range(LAYERS), seed: int = 0) -> WanBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_skyreels_transformer(seed)
    drop_layers(transformer.blocks, layers)
    return skyreels_v2_backbone(tiny_skyreels_spec(), transformer, layers)


@torch.no_grad()
def tiny_skyreels_denoising(
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
    backbone = tiny_skyreels_backbone(layers, case.seed)
    return of_backbone(work, backbone, tiny_prompts(len(work.guidance.branches), 1))
