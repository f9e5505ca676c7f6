"""Haar wavelets, pictures and videos to bands and back, as the published VAE has them.

Every channel is transformed by itself. Bands stand one after another, each with all channels.
"""

from __future__ import annotations

from itertools import product
from typing import Final, final

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from longtake.models.open_sora_plan.wavelet_vae.stream import Stream, extended

_SIGNS_3D: Final = tuple(product((1, -1), repeat=3))
"""Per band, whether its second taps along time, height and width are added or taken away."""
_SIGNS_2D: Final = ((1, 1), (-1, 1), (1, -1), (-1, -1))
"""Per band, the same along height and width."""
_MAGNITUDE_3D: Final = 0.3536
"""Of all taps: the published weights have it, not the eighth's root, by 3e-5 of which it is off."""
_MAGNITUDE_2D: Final = 0.5


def to_bands_2d(x: Tensor) -> Tensor:
    """Turn pictures ``(B, C, F, H, W)`` into bands ``(B, 4 C, F, H / 2, W / 2)``."""
    pictures = rearrange(x, "b c f h w -> (b c f) 1 h w")
    bands = F.conv2d(pictures, _kernels(_SIGNS_2D, _MAGNITUDE_2D, x), stride=2)
    return rearrange(bands, "(b c f) n h w -> b (n c) f h w", b=len(x), f=x.shape[2])


def from_bands_2d(bands: Tensor) -> Tensor:
    """Turn bands ``(B, 4 C, F, H, W)`` into pictures ``(B, C, F, 2 H, 2 W)``."""
    apart = rearrange(bands, "b (n c) f h w -> (b c f) n h w", n=len(_SIGNS_2D))
    kernels = _kernels(_SIGNS_2D, _MAGNITUDE_2D, bands)
    pictures = F.conv_transpose2d(apart, kernels, stride=2)
    return rearrange(pictures, "(b c f) 1 h w -> b c f h w", b=len(bands), f=bands.shape[2])


@final
class ToBands3D(nn.Module):
    """Video to bands: ``(B, C, 1 + 2 n, H, W)`` to ``(B, 8 C, 1 + n, H / 2, W / 2)``.

    Frames go in pairs, but for the first one of the video, which is a pair by itself.
    """

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        """Transform the next frames of a video: the first one alone, then any pairs."""
        x = extended(self, x, stream, before=1, keep=0)
        channels = rearrange(x, "b c f h w -> (b c) 1 f h w")
        bands = F.conv3d(channels, _kernels(_SIGNS_3D, _MAGNITUDE_3D, x), stride=2)
        return rearrange(bands, "(b c) n f h w -> b (n c) f h w", b=len(x))


@final
class FromBands3D(nn.Module):
    """Bands to video: ``(B, 8 C, 1 + n, H, W)`` to ``(B, C, 1 + 2 n, 2 H, 2 W)``."""

    def forward(self, bands: Tensor, stream: Stream) -> Tensor:
        """Transform the next frames of a video, any number."""
        begins = self not in stream
        stream[self] = bands[:, :, :0]
        apart = rearrange(bands, "b (n c) f h w -> (b c) n f h w", n=len(_SIGNS_3D))
        kernels = _kernels(_SIGNS_3D, _MAGNITUDE_3D, bands)
        video = F.conv_transpose3d(apart, kernels, stride=2)
        video = rearrange(video, "(b c) 1 f h w -> b c f h w", b=len(bands))
        return video[:, :, int(begins) :]


def _kernels(signs: tuple[tuple[int, ...], ...], magnitude: float, like: Tensor) -> Tensor:
    """Return the taps of all bands, ``(bands, 1, 2, 2)`` or ``(bands, 1, 2, 2, 2)``."""
    bands = []
    for band in signs:
        taps = torch.ones((), dtype=torch.float64)
        for sign in band:
            taps = taps[..., None] * torch.tensor((1, sign), dtype=torch.float64)
        bands.append(magnitude * taps)
    return torch.stack(bands)[:, None].to(like)
