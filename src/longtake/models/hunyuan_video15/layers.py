"""Layers of HunyuanVideo 1.5's VAE on a video's next frames: what encoder and decoder share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class HunyuanVideo15VaeState:
    """What is carried from some frames to the next; its size has a fixed limit.

    Args:
        seen: The last frames that each causal convolution has seen.
        kept: Keys and values of the latent frames that each attention looks back at.
    """

    seen: dict[nn.Module, Tensor] = field(default_factory=dict)
    kept: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)


def convolve(convolution: Any, x: Tensor, state: HunyuanVideo15VaeState) -> Tensor:
    """Convolve with the frames that came before; before the first one, it repeats."""
    *plane, back, _ = convolution.time_causal_padding
    past = state.seen.get(convolution, x[:, :, :1].expand(-1, -1, back, -1, -1))
    x = torch.cat((past, x), dim=2)
    state.seen[convolution] = x[:, :, -back:].clone()  # a view would keep all of x
    out: Tensor = convolution.conv(F.pad(x, (*plane, 0, 0), mode=convolution.pad_mode))
    return out


def resnet_block(resnet: Any, x: Tensor, state: HunyuanVideo15VaeState) -> Tensor:
    """Run a residual block on the next frames."""
    h = convolve(resnet.conv1, resnet.nonlinearity(resnet.norm1(x)), state)
    h = convolve(resnet.conv2, resnet.nonlinearity(resnet.norm2(h)), state)
    return h + (x if resnet.conv_shortcut is None else resnet.conv_shortcut(x))


def middle(block: Any, x: Tensor, state: HunyuanVideo15VaeState, window: int) -> Tensor:
    """Run the middle of the VAE on one latent frame ``(1, C, 1, H, W)``.

    Args:
        block: Of diffusers.
        x: The frame.
        state: Of the video; changed.
        window: Latent frames that the attention sees, this one included.
    """
    x = resnet_block(block.resnets[0], x, state)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        x = resnet_block(resnet, _attend(attention, x, state, window), state)
    return x


def _attend(attention: Any, x: Tensor, state: HunyuanVideo15VaeState, window: int) -> Tensor:
    """Attend from one frame to itself and to those before it."""
    height, width = x.shape[3:]
    normed = attention.norm(x)
    q, k, v = (
        rearrange(project(normed), "b c f h w -> b 1 (f h w) c")
        for project in (attention.to_q, attention.to_k, attention.to_v)
    )
    if attention in state.kept:
        k, v = (
            torch.cat((past, new), dim=2)[:, :, -window * height * width :]
            for past, new in zip(state.kept[attention], (k, v), strict=True)
        )
    state.kept[attention] = k, v
    out = F.scaled_dot_product_attention(q, k, v)
    added: Tensor = attention.proj_out(rearrange(out, "b 1 (h w) c -> b c 1 h w", h=height))
    return x + added
