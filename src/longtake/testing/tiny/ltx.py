"""Tiny LTX-Video: random weights, a pipeline folder on disk, or in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import T5Config, T5EncoderModel

from longtake.models import BackboneSpec, Compression, ModelFolder, PromptStates, open_folder
from longtake.models.ltx import LTXBackbone
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
_CONDITIONED: dict[str, Any] = {
    "decoder_block_out_channels": (8, 16, 32),
    "decoder_layers_per_block": (1, 1, 1, 1),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (True, True, True, False),
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
}


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
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        "$A </s>", special_tokens=[("</s>", 1)]
    )
    t5 = T5Config(
        vocab_size=len(tokenizer), d_model=TEXT_DIM, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    )
    pipeline = LTXPipeline(
        scheduler=tiny_ltx_scheduler(),
        vae=tiny_ltx_vae(seed, conditioned=conditioned),
        text_encoder=randomize(T5EncoderModel(t5), seed),
        tokenizer=tokenizer,
        transformer=tiny_ltx_transformer(seed),
    )
    options = {} if shard_size is None else {"max_shard_size": shard_size}
    pipeline.save_pretrained(path, **options)
    return open_folder(str(path))


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
    vae = AutoencoderKLLTXVideo(**_VAE | (_CONDITIONED if conditioned else _PLAIN) | changes)
    decoder, generator = vae.decoder, torch.Generator().manual_seed(seed)
    # A single number, which is no weight.
    multiplier, decoder.timestep_scale_multiplier = decoder.timestep_scale_multiplier, None
    randomize(vae, seed)
    decoder.timestep_scale_multiplier = multiplier
    vae.latents_mean.copy_(torch.randn(CHANNELS, generator=generator))
    vae.latents_std.copy_(torch.rand(CHANNELS, generator=generator) + 0.5)
    return vae.requires_grad_(False)


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
    )


def tiny_ltx_backbone(layers: Collection[int] = range(LAYERS), seed: int = 0) -> LTXBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_ltx_transformer(seed)
    for index in set(range(LAYERS)).difference(layers):
        transformer.transformer_blocks[index] = nn.Identity()
    return LTXBackbone(tiny_ltx_spec(), transformer, layers)


def tiny_ltx_prompts(rows: int, seed: int = 0) -> PromptStates:
    """Return text encoder states of made-up prompts, each one token shorter than the one before."""
    generator = torch.Generator().manual_seed(seed)
    lengths = TOKENS - 2 - torch.arange(rows)
    return {
        "states": torch.randn(rows, TOKENS, TEXT_DIM, generator=generator),
        "mask": torch.arange(TOKENS) < lengths[:, None],
    }


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
    rows = split_prompts(prompts or tiny_ltx_prompts(Guidance(scales=case.scales).branches))

    @cache
    def text(_frames: FrameRange, branches: range) -> Any:
        return backbone.condition_text(join_prompts([rows[branch] for branch in branches]))

    return replace(tiny_denoising(case, layers, communicator), backbone=backbone, text=text)
