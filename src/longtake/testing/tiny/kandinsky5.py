"""Tiny Kandinsky 5: random weights, in memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from diffusers import Kandinsky5Transformer3DModel
from torch import Tensor

from longtake.models import BackboneSpec, Compression, ConditioningFrames, PromptStates
from longtake.models.kandinsky5 import Kandinsky5Backbone
from longtake.models.kandinsky5.nabla import SIDE
from longtake.noise import NoiseSource
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import (
    CHANNELS,
    HEIGHT,
    LAYERS,
    TEXT_DIM,
    WIDTH,
    TinyCase,
    tiny_denoising,
    tiny_masked_prompts,
)
from longtake.testing.tiny.parts import drop_layers, of_backbone, randomize

POOLED_DIM = 6
"""Width of the pooled prompt."""


NABLA: dict[str, Any] = {
    "attention_type": "nabla",
    "attention_P": 0.6,
    "attention_wT": 3,
    "attention_wH": 1,
    "attention_wW": 1,
}
"""What makes a transformer one of sparse attention, with squares near and far."""
NABLA_HEIGHT, NABLA_WIDTH = 16, 32
"""Latent height and width of two squares of tokens."""


def tiny_kandinsky5_transformer(seed: int = 0, **changes: Any) -> Any:
    """Return a ``Kandinsky5Transformer3DModel`` of random weights.

    Args:
        seed: Of the weights.
        changes: To its configuration.
    """
    sizes: dict[str, Any] = {
        "in_visual_dim": CHANNELS,
        "out_visual_dim": CHANNELS,
        "in_text_dim": TEXT_DIM,
        "in_text_dim2": POOLED_DIM,
        "time_dim": 8,
        "model_dim": 36,
        "ff_dim": 48,
        "num_text_blocks": 2,
        "num_visual_blocks": LAYERS,
        "axes_dims": (4, 4, 4),
        "visual_cond": True,
    }
    return randomize(Kandinsky5Transformer3DModel(**sizes | changes), seed)


def tiny_kandinsky5_spec(*, image: bool = False, nabla: bool = False) -> BackboneSpec:
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
        start="marked" if image else "replaced",
        native=("start",) if image else (),
        sparse="chosen" if nabla else None,
        square=SIDE if nabla else 1,
        moves_keys=True,
    )


def tiny_kandinsky5_backbone(
    layers: Collection[int] = range(LAYERS),
    seed: int = 0,
    *,
    image: bool = False,
    nabla: bool = False,
) -> Kandinsky5Backbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading.

    Args:
        layers: Which.
        seed: Of the weights.
        image: Whether it makes videos from images.
        nabla: Whether its attention is sparse.
    """
    transformer = tiny_kandinsky5_transformer(seed, **(NABLA if nabla else {}))
    drop_layers(transformer.visual_transformer_blocks, layers)
    spec = tiny_kandinsky5_spec(image=image, nabla=nabla)
    return Kandinsky5Backbone(spec, transformer, layers)


def tiny_kandinsky5_prompts(rows: int, seed: int = 0) -> PromptStates:
    """Return the states of made-up prompts of different length, with CLIP's."""
    generator = torch.Generator().manual_seed(seed + 1)
    pooled: Tensor = torch.randn(rows, POOLED_DIM, generator=generator)
    return tiny_masked_prompts(rows, seed) | {"pooled": pooled}


def tiny_kandinsky5_start(height: int = HEIGHT, width: int = WIDTH) -> ConditioningFrames:
    """Return a made-up start of one latent frame."""
    generator = torch.Generator().manual_seed(3)
    return ConditioningFrames(
        latents=torch.randn(1, CHANNELS, 1, height, width, generator=generator)
    )


@torch.no_grad()
def tiny_kandinsky5_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
    *,
    image: bool = False,
    nabla: bool = False,
) -> Denoising:
    """Return the work of one rank that holds ``layers``. It can be run once.

    Args:
        case: What is denoised.
        layers: What the strategy asked for on this rank.
        communicator: The ranks of the run; ``None`` for one rank.
        image: Whether it begins with an image.
        nabla: Whether attention is sparse; pictures are then larger than the case says.
    """
    work = tiny_denoising(case, layers, communicator)
    prompts = tiny_kandinsky5_prompts(len(work.guidance.branches))
    backbone = tiny_kandinsky5_backbone(layers, case.seed, image=image, nabla=nabla)
    changes: dict[str, Any] = {"start": tiny_kandinsky5_start()} if image else {}
    if nabla:
        source = NoiseSource(
            seed=case.seed, channels=CHANNELS, height=NABLA_HEIGHT, width=NABLA_WIDTH
        )
        changes |= {
            "noise": case.noise.blocks(source, case.scheduler.blocks(case.latent_frames)),
            "height": NABLA_HEIGHT,
            "width": NABLA_WIDTH,
        }
    return of_backbone(work, backbone, prompts, **changes)
