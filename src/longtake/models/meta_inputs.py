"""Inputs on the meta device, on which models are counted and measured: shapes without values."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from longtake.models.base import (
    AnyBackbone,
    AnyDecoder,
    Grid,
    Kernel,
    LayerContext,
)
from longtake.models.blank import META, BlankModel

_PATIENCE: Final = 64
"""Latent frames that a decoder may hold back before it is given up."""


def forward_inputs(
    blank: BlankModel, backbone: AnyBackbone, grid: Grid, kernel: Kernel
) -> tuple[Tensor, LayerContext[Any, Any]]:
    """Return latents ``(1, C, F, H, W)`` and what layers get besides hidden states.

    Args:
        blank: The model.
        backbone: Of the same, on the meta device.
        grid: What is denoised.
        kernel: Of the layers' attention.
    """
    family, folder, spec, dtype = blank.family, blank.folder, backbone.spec, blank.dtype
    with META:
        start = family.blank_start(folder, spec, grid.height, grid.width)
        prompts = family.blank_prompts(folder, spec) | (start.prompt_rows(1) if start else {})
        latents = torch.empty(1, spec.channels, len(grid.frames), grid.height, grid.width)
    prompts = {
        name: rows.to(dtype) if rows.is_floating_point() else rows for name, rows in prompts.items()
    }
    step = backbone.condition_step(float(spec.train_timesteps - 1), guidance=1.0)
    context: LayerContext[Any, Any] = LayerContext(
        text=backbone.text_at(backbone.condition_text(prompts), step),
        step=step,
        rotary=None if backbone.positions is None else backbone.positions.table(grid),
        kernel=kernel,
        text_tokens=spec.text_tokens,
        start=start,
    )
    return latents.to(dtype), context


def decode_until_frames(decoder: AnyDecoder, state: Any, frame: Tensor) -> int:
    """Decode latent frames until video frames come; return how many that took.

    Args:
        decoder: On the meta device.
        state: Its own.
        frame: One latent frame ``(1, C, 1, H, W)``.

    Raises:
        RuntimeError: None come.
    """
    for count in range(1, _PATIENCE + 1):
        if sum(len(pictures) for pictures in decoder.decode(state, frame)):
            return count
    raise RuntimeError("the decoder holds everything back")
