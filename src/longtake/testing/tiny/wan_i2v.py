"""Random-weight Wan image-to-video models, beside the text-to-video ones of ``tiny``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import WanImageToVideoPipeline
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from longtake.models import (
    BackboneSpec,
    ConditioningFrames,
    ConditioningKind,
    ModelFolder,
    PromptStates,
)
from longtake.models.wan import WanBackbone
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import (
    BOUNDARY,
    CHANNELS,
    HEIGHT,
    LAYERS,
    TEXT_DIM,
    WIDTH,
    TinyCase,
    tiny_denoising,
    tiny_scheduler,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_wan_spec,
    tiny_wan_transformer,
    tiny_wan_vae,
)
from longtake.testing.tiny.parts import (
    drop_layers,
    of_backbone,
    randomize,
    save_folder,
)

IMAGE_DIM, IMAGE_TOKENS = 8, 5
"""Width of the image encoder, and tokens that it makes of an image."""

TEXT_TOKENS = 512
"""Tokens of a prompt: diffusers' Wan 2.1 I2V takes no other number."""


def tiny_wan_i2v_folder(
    path: Path, *, experts: int = 1, images: int = 1, seed: int = 0
) -> ModelFolder:
    """Save a random-weight ``WanImageToVideoPipeline`` as diffusers does, and open it.

    Args:
        path: Where to.
        experts: 1 as in Wan 2.1 (with an image encoder), 2 as in Wan 2.2 A14B (without).
        images: With one expert: 1 as in Wan 2.1 I2V, 2 as in FLF2V.
        seed: Of the weights.
    """
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = TEXT_TOKENS
    image, count = experts == 1, images if experts == 1 else 0
    pipeline = WanImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=tiny_text_encoder(seed),
        vae=tiny_wan_vae(seed),
        scheduler=tiny_scheduler(),
        image_processor=tiny_image_processor() if image else None,
        image_encoder=tiny_image_encoder(seed) if image else None,
        transformer=tiny_wan_i2v_transformer(seed, images=count),
        transformer_2=None if image else tiny_wan_i2v_transformer(seed + 1, images=count),
        boundary_ratio=None if image else BOUNDARY,
    )
    return save_folder(pipeline, path)


def tiny_image_encoder(seed: int = 0, encoder_class: Any = CLIPVisionModel) -> Any:
    """Return an image encoder of random weights, of a class of transformers."""
    config = CLIPVisionConfig(
        hidden_size=IMAGE_DIM,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return randomize(encoder_class(config), seed)


def tiny_image_processor() -> Any:
    """Return what crops and resizes pictures for the image encoder."""
    crop = {"height": 16, "width": 16}
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=crop)


def tiny_wan_i2v_transformer(seed: int = 0, *, images: int) -> Any:
    """Return a ``WanTransformer3DModel`` with input channels for given frames.

    Args:
        seed: Of the weights.
        images: How many encoded images its cross-attention reads as well: 0, 1 or 2.
    """
    further: dict[str, Any] = {}
    if images:
        further = {"image_dim": IMAGE_DIM, "added_kv_proj_dim": 24}
    if images == 2:
        further["pos_embed_seq_len"] = 2 * IMAGE_TOKENS
    return tiny_wan_transformer(seed, in_channels=CHANNELS + 4 + CHANNELS, **further)


def tiny_wan_i2v_spec(experts: int = 1, images: int = 1) -> BackboneSpec:
    """Return the spec of ``tiny_wan_i2v_backbone``."""
    spec, name = tiny_wan_spec(experts), "tiny Wan I2V" if images == 1 else "tiny Wan FLF2V"
    native: tuple[ConditioningKind, ...] = ("start", "continue")
    if images == 2:
        native = ("start", "end")
    elif experts == 2:
        native = ("start", "end", "continue")
    return replace(spec, name=name, start="channels", native=native, needs_end=images == 2)


def tiny_wan_i2v_backbone(
    layers: Collection[int] = range(LAYERS), experts: int = 1, seed: int = 0, images: int = 1
) -> WanBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformers = [
        tiny_wan_i2v_transformer(seed + expert, images=images if experts == 1 else 0)
        for expert in range(experts)
    ]
    for transformer in transformers:
        drop_layers(transformer.blocks, layers)
    return WanBackbone(tiny_wan_i2v_spec(experts, images), transformers, layers)


def tiny_wan_i2v_prompts(rows: int, seed: int = 0, images: int = 1) -> PromptStates:
    """Return text encoder states of made-up prompts, each with an image of its own, or two."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "states": torch.randn(rows, TEXT_TOKENS, TEXT_DIM, generator=generator),
        "image": torch.randn(rows, images * IMAGE_TOKENS, IMAGE_DIM, generator=generator),
    }


def tiny_start(known: int = 1, described: int = 5, seed: int = 0) -> ConditioningFrames:
    """Return a made-up start.

    Args:
        known: Latent frames that are known.
        described: Latent frames whose input channels differ from the last one's.
        seed: Of everything.
    """
    generator = torch.Generator().manual_seed(seed)
    return ConditioningFrames(
        latents=torch.randn(1, CHANNELS, known, HEIGHT, WIDTH, generator=generator),
        channels=torch.randn(1, 4 + CHANNELS, described, HEIGHT, WIDTH, generator=generator),
        prompts={"image": torch.randn(1, IMAGE_TOKENS, IMAGE_DIM, generator=generator)},
    )


def tiny_ends(latent_frames: int, seed: int = 0) -> ConditioningFrames:
    """Return a made-up start of a video whose last frame is given too."""
    start, generator = tiny_start(seed=seed), torch.Generator().manual_seed(seed + 100)
    end = torch.randn(1, 4 + CHANNELS, 1, HEIGHT, WIDTH, generator=generator)
    return replace(start, channels_at={latent_frames - 1: end})


@torch.no_grad()
def tiny_wan_i2v_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
    images: int = 1,
) -> Denoising:
    """Return the work of one rank that holds ``layers``. It can be run once.

    Args:
        case: What is denoised; with two scales the model is like Wan 2.2.
        layers: What the strategy asked for on this rank.
        communicator: The ranks of the run; ``None`` for one rank.
        images: 2 for a model that is given the last frame as well.
    """
    backbone = tiny_wan_i2v_backbone(layers, len(case.scales), case.seed, images)
    work = tiny_denoising(case, layers, communicator)
    start = tiny_start()
    if images == 2:
        assert case.latent_frames is not None  # an endless video has no last frame
        start = tiny_ends(case.latent_frames)
    return of_backbone(work, backbone, tiny_wan_i2v_prompts(2, images=images), start=start)
