"""Input channels for given frames, as all HunyuanVideo transformers have them."""

from __future__ import annotations

import torch
from torch import Tensor


def image_channels(latents: Tensor) -> Tensor:
    """Return what the input channels for given frames hold, ``(1, C + 1, F + 1, H, W)``.

    The latents and, in one channel more, that they are given; then nothing, and so for all later
    frames.

    Args:
        latents: Of the given frames, ``(1, C, F, H, W)``.
    """
    given = torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)
    return torch.cat([given, torch.zeros_like(given[:, :, :1])], dim=2)
