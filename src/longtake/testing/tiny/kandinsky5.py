"""Tiny Kandinsky 5: random weights, in memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from diffusers import Kandinsky5Transformer3DModel
from torch import Tensor

from longtake.models import BackboneSpec, Compression, PromptStates
from longtake.models.kandinsky5 import Kandinsky5Backbone
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import (
    CHANNELS,
    LAYERS,
    TEXT_DIM,
    TinyCase,
    tiny_denoising,
    tiny_masked_prompts,
)
from longtake.testing.tiny.parts import drop_layers, of_backbone, randomize

POOLED_DIM = 6
"""Width of the pooled prompt."""


def tiny_kandinsky5_transformer(seed: int = 0) -> Any:
    """Return a ``Kandinsky5Transformer3DModel`` of random weights."""
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=CHANNELS,
        out_visual_dim=CHANNELS,
        in_text_dim=TEXT_DIM,
        in_text_dim2=POOLED_DIM,
        time_dim=8,
        model_dim=36,
        ff_dim=48,
        num_text_blocks=2,
        num_visual_blocks=LAYERS,
        axes_dims=(4, 4, 4),
        visual_cond=True,
    )
    return randomize(transformer, seed)


def tiny_kandinsky5_spec() -> BackboneSpec:
    """Return the spec of ``tiny_kandinsky5_backbone``."""
    return BackboneSpec(
        name="tiny Kandinsky 5",
        channels=CHANNELS,
        patch=(1, 2, 2),
        heads=3,
        head_dim=12,
        layers=LAYERS,
        native_frames=31,
        compression=Compression(temporal=4, spatial=8),
        start="replaced",
        moves_keys=True,
    )


def tiny_kandinsky5_backbone(
    layers: Collection[int] = range(LAYERS), seed: int = 0
) -> Kandinsky5Backbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_kandinsky5_transformer(seed)
    drop_layers(transformer.visual_transformer_blocks, layers)
    return Kandinsky5Backbone(tiny_kandinsky5_spec(), transformer, layers)


def tiny_kandinsky5_prompts(rows: int, seed: int = 0) -> PromptStates:
    """Return the states of made-up prompts of different length, with CLIP's."""
    generator = torch.Generator().manual_seed(seed + 1)
    pooled: Tensor = torch.randn(rows, POOLED_DIM, generator=generator)
    return tiny_masked_prompts(rows, seed) | {"pooled": pooled}


@torch.no_grad()
def tiny_kandinsky5_denoising(
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
    prompts = tiny_kandinsky5_prompts(len(work.guidance.branches))
    return of_backbone(work, tiny_kandinsky5_backbone(layers, case.seed), prompts)
