"""Wan's causal VAE as an encoder: the first frames of a video, and what I2V models see of them."""

from __future__ import annotations

from typing import Any, Final, final

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify
from torch import Tensor

from longtake.models.base import Placement
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import load_vae
from longtake.models.video_frames import VideoFrames

_CHUNK: Final = 4
"""Video frames that the encoder takes at once after the first one, as in diffusers."""


@final
class WanEncoder:
    """Encodes video frames as ``AutoencoderKLWan.encode`` does, a few at a time on the device.

    Bit-equal to it: the same calls, with the causal convolutions' cache kept.

    Args:
        vae: With its encoder; the decoder is not needed.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self._vae = vae
        self._device = next(vae.encoder.parameters()).device
        channels = (1, -1, 1, 1, 1)
        self._mean = torch.tensor(vae.config.latents_mean, device=self._device).view(channels)
        # diffusers multiplies by the inverse: done alike, to be bit-equal.
        self._inverse_std = 1.0 / torch.tensor(vae.config.latents_std, device=self._device).view(
            channels
        )

    @classmethod
    def load(cls, folder: ModelFolder, device: torch.device) -> WanEncoder:
        """Load the VAE's encoder alone, in fp32.

        Raises:
            ModelError: The folder's VAE has none.
        """
        place, build = Placement(device, torch.float32), AutoencoderKLWan.from_config
        return cls(load_vae(folder, build, place, without=("decoder", "post_quant_conv")))

    @torch.no_grad()
    def encode(self, frames: VideoFrames, length: int = 0, last: Tensor | None = None) -> Tensor:
        """Return normalized latents ``(1, C, F', H, W)`` fp32 on the CPU.

        Args:
            frames: ``(F, height, width, 3)`` uint8 RGB.
            length: Of a clip that begins with them and is gray from there on; at least ``F``, as
                many frames as some latent frames decode to.
            last: Its last frame ``(height, width, 3)``, if that is another one than gray.
        """
        end = frames[:0] if last is None else last[None]
        cache: list[Any] = [None] * self._vae._cached_conv_counts["encoder"]
        states = []
        for first in (0, *range(1, max(len(frames), length), _CHUNK)):
            count = _CHUNK if first else 1
            shown = frames[first : first + count]
            pixels = self._pixels(shown, count, end if first + count == length else end[:0])
            states.append(self._vae.encoder(pixels, feat_cache=cache, feat_idx=[0]))
        mode: Tensor = self._vae.quant_conv(torch.cat(states, dim=2)).chunk(2, dim=1)[0]
        return ((mode - self._mean) * self._inverse_std).cpu()

    def _pixels(self, frames: Tensor, count: int, end: Tensor) -> Tensor:
        """Return frames, gray ones and an end as the VAE takes them, ``(1, 3, count, ...)``."""
        begin, end = (
            2.0 * (part.permute(3, 0, 1, 2).to(self._device, torch.float32) / 255.0) - 1.0
            for part in (frames, end)
        )
        gray = begin.new_zeros(3, count - begin.shape[1] - end.shape[1], *begin.shape[2:])
        pixels = torch.cat([begin, gray, end], dim=1)[None]
        patch = self._vae.config.patch_size
        return pixels if patch is None else patchify(pixels, patch_size=patch)


def image_channels(known: int, condition: Tensor, temporal: int) -> Tensor:
    """Return what Wan I2V's further input channels hold, ``(1, temporal + C, F, H, W)``.

    Args:
        known: Latent frames that are known.
        condition: Latents of the known frames, followed by gray ones.
        temporal: Video frames per latent frame: each has its own channel in the mask.
    """
    mask = torch.zeros_like(condition[:, :1]).repeat(1, temporal, 1, 1, 1)
    mask[:, :, :known] = 1.0
    return torch.cat([mask, condition], dim=1)
