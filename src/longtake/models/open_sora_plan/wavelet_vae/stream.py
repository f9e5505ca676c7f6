"""Stream state of the wavelet VAE: the frames that causal modules have seen and still need."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

Stream: TypeAlias = dict[nn.Module, Tensor]
"""What each module keeps of one video: its last frames, or no frame, once it has seen the first."""


def extended(module: nn.Module, x: Tensor, stream: Stream, *, before: int, keep: int) -> Tensor:
    """Put the frames that a module has kept in front of the next ones.

    Args:
        module: Whose frames.
        x: The video's next frames, ``(B, C, F, H, W)``.
        stream: Of the video; keeps the last frames of the result.
        before: How many times the first frame of the video is repeated in front of it.
        keep: How many frames the next call needs.
    """
    past = stream.get(module)
    if past is None:
        past = x[:, :, :1].expand(-1, -1, before, -1, -1)
    x = torch.cat((past, x), dim=2)
    stream[module] = x[:, :, x.shape[2] - keep :].clone()  # a view would keep all of x
    return x
