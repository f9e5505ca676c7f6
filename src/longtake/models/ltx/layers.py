"""Residual layers of LTX-Video's VAE, on a stream of frames: what encoder and decoder share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from longtake.models.ltx.streams import Stream, convolve, each, join


def resnets(part: Any, level: float, generator: torch.Generator, stream: Stream) -> Stream:
    """Send frames through the residual layers of a part of the VAE.

    Args:
        part: Of diffusers.
        level: Timestep that it is conditioned on, if it is.
        generator: Of the noise that some layers add.
        stream: Of one video.
    """
    time = time_of(part, level)
    for layer in part.resnets:
        stream = resnet(layer, time, generator, stream)
    return stream


def resnet(layer: Any, time: Tensor | None, generator: torch.Generator, stream: Stream) -> Stream:
    """Send frames through a residual layer.

    Args:
        layer: Of diffusers.
        time: Embedding of the timestep that it is conditioned on, if it is.
        generator: Of the noise that it may add.
        stream: Of one video.
    """
    shift_1, scale_1, shift_2, scale_2 = modulation(time, layer.scale_shift_table, 4)
    act = layer.nonlinearity

    def branch(stream: Stream) -> Stream:
        stream = each(lambda x: act(normed(layer.norm1, x) * (1 + scale_1) + shift_1), stream)
        stream = convolve(layer.conv1, stream)
        stream = each(_noise(layer.per_channel_scale1, generator), stream)
        stream = each(lambda x: act(normed(layer.norm2, x) * (1 + scale_2) + shift_2), stream)
        stream = convolve(layer.conv2, stream)
        return each(_noise(layer.per_channel_scale2, generator), stream)

    def combine(frames: Tensor, inputs: Tensor) -> Tensor:
        if layer.conv_shortcut is not None:  # of one frame: it has no need to wait
            inputs = layer.conv_shortcut(normed(layer.norm3, inputs))
        return frames + inputs

    return join(branch, combine, stream)


def normed(norm: Any, x: Tensor) -> Tensor:
    """Return frames, normed over channels."""
    out: Tensor = norm(x.movedim(1, -1)).movedim(-1, 1)
    return out


def _noise(scale: Tensor | None, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return what adds noise of its own scale to each channel, the same to every frame."""
    if scale is None:
        return lambda x: x
    pattern: Tensor | None = None

    def add(x: Tensor) -> Tensor:
        nonlocal pattern
        if pattern is None:  # a video's first frames come to the layers in their order
            picture = torch.randn(x.shape[-2:], generator=generator, device="cpu", dtype=x.dtype)
            pattern = (picture.to(x.device) * scale)[None, :, None]
        return x + pattern

    return add


def time_of(part: Any, level: float) -> Tensor | None:
    """Return the embedding of a timestep, ``(1, C, 1, 1, 1)``, where a part wants one."""
    if part.time_embedder is None:
        return None
    weight = part.time_embedder.timestep_embedder.linear_1.weight
    time = torch.full((1,), level, dtype=weight.dtype, device=weight.device)
    embedding: Tensor = part.time_embedder(time, None, None, 1, weight.dtype)
    return embedding.view(1, -1, 1, 1, 1)


def modulation(time: Tensor | None, table: Tensor | None, count: int) -> tuple[Tensor, ...]:
    """Return shifts and scales, zeros where a layer has none."""
    if time is None or table is None:
        return (torch.zeros(()),) * count
    parts = rearrange(time, "b (n c) f h w -> n b c f h w", n=count)
    return tuple(part + row.view(1, -1, 1, 1, 1) for part, row in zip(parts, table, strict=True))
