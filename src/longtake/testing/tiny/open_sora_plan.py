"""Tiny Open-Sora-Plan: random weights, a pipeline folder on disk, or in memory."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from longtake.models import BackboneSpec, Compression, ModelFolder, PromptStates
from longtake.models.open_sora_plan import (
    OpenSoraPlanBackbone,
    OpenSoraPlanConfig,
    OpenSoraPlanTransformer,
    convert,
)
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import (
    CHANNELS,
    LAYERS,
    TEXT_DIM,
    TinyCase,
    tiny_denoising,
    tiny_masked_prompts,
    tiny_wan_vae,
)
from longtake.testing.tiny.parts import (
    drop_layers,
    of_backbone,
    randomize,
    t5_encoder,
    word_tokenizer,
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
    encoder = t5_encoder(len(_WORDS), TEXT_DIM, seed, "MT5")
    encoder.save_pretrained(parts["text_encoder"])
    word_tokenizer(_WORDS, closed=True).save_pretrained(parts["text_encoder"])
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
    drop_layers(transformer.transformer_blocks, layers)
    return OpenSoraPlanBackbone(tiny_open_sora_plan_spec(), transformer, layers)


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
    rows = prompts or tiny_masked_prompts(work.guidance.branches)
    return of_backbone(work, backbone, rows)
