"""Tiny Mochi: random weights, a pipeline folder on disk, or in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLMochi,
    FlowMatchEulerDiscreteScheduler,
    MochiPipeline,
    MochiTransformer3DModel,
)
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import T5Config, T5EncoderModel

from longtake.models import (
    BackboneSpec,
    Compression,
    DiffusersSampler,
    ModelFolder,
    PromptStates,
    open_folder,
)
from longtake.models.mochi import MochiBackbone, MochiFamily
from longtake.models.text import join_prompts, split_prompts
from longtake.strategies import Communicator, Denoising, Guidance
from longtake.task import FrameRange
from longtake.testing.tiny.base import (
    CHANNELS,
    LAYERS,
    TEXT_DIM,
    TOKENS,
    TinyCase,
    randomize,
    tiny_denoising,
    tiny_tokenizer,
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
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        "$A </s>", special_tokens=[("</s>", 1)]
    )
    t5 = T5Config(
        vocab_size=len(tokenizer), d_model=TEXT_DIM, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    )
    pipeline = MochiPipeline(
        scheduler=tiny_mochi_scheduler(),
        vae=tiny_mochi_vae(seed),
        text_encoder=randomize(T5EncoderModel(t5), seed),
        tokenizer=tokenizer,
        transformer=tiny_mochi_transformer(seed),
        force_zeros_for_empty_prompt=zeros,
    )
    options = {} if shard_size is None else {"max_shard_size": shard_size}
    pipeline.save_pretrained(path, **options)
    return open_folder(str(path))


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
    for index in set(range(LAYERS)).difference(layers):
        transformer.transformer_blocks[index] = nn.Identity()
    return MochiBackbone(tiny_mochi_spec(), transformer, layers)


def tiny_mochi_prompts(rows: int, seed: int = 0) -> PromptStates:
    """Return text encoder states of made-up prompts, each one token shorter than the one before."""
    generator = torch.Generator().manual_seed(seed)
    lengths = TOKENS - 2 - torch.arange(rows)
    return {
        "states": torch.randn(rows, TOKENS, TEXT_DIM, generator=generator),
        "mask": torch.arange(TOKENS) < lengths[:, None],
    }


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
    rows = split_prompts(prompts or tiny_mochi_prompts(Guidance(scales=case.scales).branches))

    @cache
    def text(_frames: FrameRange, branches: range) -> Any:
        return backbone.condition_text(join_prompts([rows[branch] for branch in branches]))

    sampler = DiffusersSampler(tiny_mochi_scheduler(), case.steps, MochiFamily().sigmas(case.steps))
    work = tiny_denoising(case, layers, communicator)
    return replace(work, backbone=backbone, sampler=sampler, text=text)
