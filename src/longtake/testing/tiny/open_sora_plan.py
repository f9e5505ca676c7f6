"""Tiny Open-Sora-Plan: random weights, a pipeline folder on disk, or in memory."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import MT5Config, MT5EncoderModel, PreTrainedTokenizerFast

from longtake.models import BackboneSpec, Compression, ModelFolder, PromptStates
from longtake.models.open_sora_plan import (
    OpenSoraPlanBackbone,
    OpenSoraPlanConfig,
    OpenSoraPlanTransformer,
    convert,
)
from longtake.models.text import join_prompts, split_prompts
from longtake.strategies import Communicator, Denoising
from longtake.task import FrameRange
from longtake.testing.tiny.base import (
    CHANNELS,
    LAYERS,
    TEXT_DIM,
    TOKENS,
    TinyCase,
    randomize,
    tiny_denoising,
    tiny_wan_vae,
)

HEADS = 3
"""Attention heads: an odd number, so that two ranks divide them unevenly."""

_WORDS = ["<pad>", "</s>", "<unk>", "red", "blue", "bird", "sea", "moves", "slow"]


def tiny_open_sora_plan_folder(
    path: Path, *, shard_size: str = "5GB", seed: int = 0, **changes: Any
) -> ModelFolder:
    """Save the parts as they are published, with random weights, and make a pipeline folder.

    Args:
        path: Where to.
        shard_size: Largest weight file of the transformer.
        seed: Of the weights.
        changes: To the transformer's configuration.
    """
    transformer = tiny_open_sora_plan_transformer(seed, **changes)
    parts = {name: path / "parts" / name for name in ("transformer", "text_encoder", "vae")}
    parts["transformer"].mkdir(parents=True)
    save_torch_state_dict(
        transformer.state_dict(),
        parts["transformer"],
        filename_pattern="diffusion_pytorch_model{suffix}.safetensors",
        max_shard_size=shard_size,
    )
    config = {"_class_name": "OpenSoraT2V_v1_3", **asdict(transformer.config)}
    (parts["transformer"] / "config.json").write_text(json.dumps(config))
    mt5 = MT5Config(
        vocab_size=len(_WORDS), d_model=TEXT_DIM, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    )
    randomize(MT5EncoderModel(mt5), seed).save_pretrained(parts["text_encoder"])
    _tokenizer().save_pretrained(parts["text_encoder"])
    tiny_wan_vae(seed).save_pretrained(parts["vae"])
    return convert(**parts, target=path / "pipeline")


def tiny_open_sora_plan_transformer(seed: int = 0, **changes: Any) -> Any:
    """Return a transformer of random weights: two full layers, then one of each sparse kind."""
    config = OpenSoraPlanConfig(
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        attention_head_dim=12,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        caption_channels=TEXT_DIM,
        sparse1d=True,
        sparse_n=4,
    )
    return randomize(OpenSoraPlanTransformer(replace(config, **changes)), seed)


def tiny_open_sora_plan_spec() -> BackboneSpec:
    """Return the spec of ``tiny_open_sora_plan_backbone``."""
    return BackboneSpec(
        name="tiny Open-Sora-Plan",
        channels=CHANNELS,
        patch=(1, 2, 2),
        heads=HEADS,
        head_dim=12,
        layers=LAYERS,
        native_frames=24,
        compression=Compression(temporal=4, spatial=8),
        sparse=True,
    )


def tiny_open_sora_plan_backbone(
    layers: Collection[int] = range(LAYERS), seed: int = 0, **changes: Any
) -> OpenSoraPlanBackbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_open_sora_plan_transformer(seed, **changes)
    for index in set(range(LAYERS)).difference(layers):
        transformer.transformer_blocks[index] = nn.Identity()
    return OpenSoraPlanBackbone(tiny_open_sora_plan_spec(), transformer, layers)


def tiny_open_sora_plan_prompts(rows: int, seed: int = 0) -> PromptStates:
    """Return text encoder states of made-up prompts, each one token shorter than the one before."""
    generator = torch.Generator().manual_seed(seed)
    lengths = TOKENS - 2 - torch.arange(rows)
    return {
        "states": torch.randn(rows, TOKENS, TEXT_DIM, generator=generator),
        "mask": torch.arange(TOKENS) < lengths[:, None],
    }


def published_forward(
    transformer: Any, latents: Tensor, timestep: float, prompts: PromptStates
) -> Tensor:
    """Run the published forward, which recorded cases hold to, on videos without a mask."""
    out: Tensor = transformer(
        latents,
        torch.full((len(latents),), timestep),
        prompts["states"][:, None],
        torch.ones(len(latents), *latents.shape[2:]),
        prompts["mask"][:, None],
    )
    return out


@torch.no_grad()
def tiny_open_sora_plan_denoising(
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
    work = tiny_denoising(case, layers, communicator)
    backbone = tiny_open_sora_plan_backbone(layers, case.seed)
    rows = split_prompts(prompts or tiny_open_sora_plan_prompts(work.guidance.branches))

    @cache
    def text(_frames: FrameRange, branches: range) -> Any:
        return backbone.condition_text(join_prompts([rows[branch] for branch in branches]))

    return replace(work, backbone=backbone, text=text)


def _tokenizer() -> Any:
    words = {word: index for index, word in enumerate(_WORDS)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
