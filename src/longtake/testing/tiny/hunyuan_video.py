"""Tiny HunyuanVideo: random weights, a pipeline folder on disk, or in memory."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
)

from longtake.guidance import ClassifierFreeGuidance, GuidanceSettings
from longtake.models import BackboneSpec, Compression, ModelFolder, PromptStates
from longtake.models.hunyuan_video import HunyuanVideoBackbone
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import (
    CHANNELS,
    LAYERS,
    TEXT_DIM,
    TOKENS,
    TinyCase,
    tiny_denoising,
    tiny_scheduler,
)
from longtake.testing.tiny.parts import (
    drop_layers,
    of_backbone,
    randomize,
    save_folder,
    word_tokenizer,
)

DUAL = LAYERS // 2
"""How many of the layers have two streams; as many follow with one."""

EMBEDDED_SCALE = 6.0
"""Guidance scale that the model is told."""

POOLED_DIM = 6
"""Width of the pooled prompt."""

_WORDS = ["<pad>", "</s>", "<unk>", "red", "blue", "bird", "sea", "moves", "slow", "user", "video"]


def tiny_hunyuan_folder(
    path: Path, *, shard_size: str | None = None, seed: int = 0, **changes: Any
) -> ModelFolder:
    """Save a random-weight ``HunyuanVideoPipeline`` as diffusers does, and open it.

    Args:
        path: Where to.
        shard_size: Largest weight file (``"20KB"``); ``None`` for one file per component.
        seed: Of the weights.
        changes: To the transformer's configuration.
    """
    llama = LlamaConfig(
        vocab_size=len(_WORDS),
        hidden_size=TEXT_DIM,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
    )
    clip = CLIPTextConfig(
        vocab_size=len(_WORDS),
        hidden_size=POOLED_DIM,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    pipeline = HunyuanVideoPipeline(
        text_encoder=randomize(LlamaModel(llama), seed),
        tokenizer=word_tokenizer(_WORDS, closed=True),
        transformer=tiny_hunyuan_transformer(seed, **changes),
        vae=tiny_hunyuan_vae(seed),
        scheduler=tiny_scheduler("FlowMatchEulerDiscreteScheduler"),
        text_encoder_2=randomize(CLIPTextModel(clip), seed),
        tokenizer_2=word_tokenizer(_WORDS, closed=True),
    )
    return save_folder(pipeline, path, shard_size)


def tiny_hunyuan_transformer(seed: int = 0, **changes: Any) -> Any:
    """Return a ``HunyuanVideoTransformer3DModel`` of random weights."""
    config = {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "num_layers": DUAL,
        "num_single_layers": LAYERS - DUAL,
        "num_refiner_layers": 1,
        "mlp_ratio": 2.0,
        "text_embed_dim": TEXT_DIM,
        "pooled_projection_dim": POOLED_DIM,
        "rope_axes_dim": (4, 4, 4),
    }
    return randomize(HunyuanVideoTransformer3DModel(**config | changes), seed)


def tiny_hunyuan_vae(seed: int = 0) -> Any:
    """Return an ``AutoencoderKLHunyuanVideo`` of random weights: 8 times smaller, 4 times fewer."""
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=CHANNELS,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
    )
    return randomize(vae, seed)


def tiny_hunyuan_spec() -> BackboneSpec:
    """Return the spec of ``tiny_hunyuan_backbone``."""
    return BackboneSpec(
        name="tiny HunyuanVideo",
        channels=CHANNELS,
        patch=(1, 2, 2),
        heads=2,
        head_dim=12,
        layers=LAYERS,
        native_frames=33,
        compression=Compression(temporal=4, spatial=8),
        text_tokens=TOKENS,
        guidance="embedded",
        start="replaced",
        moves_keys=True,
    )


def tiny_hunyuan_backbone(
    layers: Collection[int] = range(LAYERS), seed: int = 0
) -> HunyuanVideoBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_hunyuan_transformer(seed)
    drop_layers(transformer.transformer_blocks, layers)
    drop_layers(transformer.single_transformer_blocks, layers, first=DUAL)
    return HunyuanVideoBackbone(tiny_hunyuan_spec(), transformer, layers)


def tiny_hunyuan_prompts(rows: int, seed: int = 0) -> PromptStates:
    """Return text encoder states of made-up prompts, each one token shorter than the one before."""
    generator = torch.Generator().manual_seed(seed)
    lengths = TOKENS - 2 - torch.arange(rows)
    return {
        "states": torch.randn(rows, TOKENS, TEXT_DIM, generator=generator),
        "mask": torch.arange(TOKENS) < lengths[:, None],
        "pooled": torch.randn(rows, POOLED_DIM, generator=generator),
    }


@torch.no_grad()
def tiny_hunyuan_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
    prompts: PromptStates | None = None,
) -> Denoising:
    """Return the work of one rank that holds ``layers``. It can be run once.

    Args:
        case: What is denoised; its scales are those of true guidance, by a second branch.
        layers: What the strategy asked for on this rank.
        communicator: The ranks of the run; ``None`` for one rank.
        prompts: One row per branch; ``None`` for made-up ones.
    """
    backbone = tiny_hunyuan_backbone(layers, case.seed)
    guidance = ClassifierFreeGuidance(GuidanceSettings(scales=case.scales), told=EMBEDDED_SCALE)
    work = tiny_denoising(case, layers, communicator)
    rows = prompts or tiny_hunyuan_prompts(len(guidance.branches))
    return of_backbone(work, backbone, rows, guidance=guidance)
