"""Open-Sora-Plan's wavelet VAE as an encoder, in memory that does not grow with the video."""

from __future__ import annotations

from typing import Any, Final, final

import torch
from torch import Tensor

from longtake.models.base import Placement
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import load_vae
from longtake.models.open_sora_plan.wavelet_vae.config import WaveletVaeConfig
from longtake.models.open_sora_plan.wavelet_vae.model import WaveletVae
from longtake.models.open_sora_plan.wavelet_vae.stream import Stream
from longtake.models.video_frames import VideoFrames

_CHUNK: Final = 4
"""Video frames that are encoded at once after the first one: those of a latent frame."""


def build_wavelet_vae(config: dict[str, Any]) -> WaveletVae:
    """Make the VAE of a ``config.json``.

    Raises:
        ModelError: It is not the VAE of version 1.3.
    """
    return WaveletVae(WaveletVaeConfig.read(config))


@final
class WaveletEncoder:
    """Encodes video frames to the mean of their latents, a latent frame at a time.

    Args:
        vae: With its encoder; the decoder is not needed.
    """

    def __init__(self, vae: WaveletVae) -> None:
        self._encoder: Any = vae.encoder
        self._weight = next(vae.encoder.parameters())
        self._scale, self._shift = (
            self._weight.new_tensor(numbers).view(1, -1, 1, 1, 1)
            for numbers in (vae.config.scale, vae.config.shift)
        )

    @classmethod
    def load(cls, folder: ModelFolder, device: torch.device) -> WaveletEncoder:
        """Load the VAE's encoder alone, in fp32.

        Raises:
            ModelError: The folder's VAE has none.
        """
        place = Placement(device, torch.float32)
        return cls(load_vae(folder, build_wavelet_vae, place, without=("decoder",)))

    @torch.no_grad()
    def encode(self, frames: VideoFrames, blank: int = 0) -> Tensor:
        """Return latents ``(1, C, F', H, W)`` on the CPU, as a sampler leaves finished frames.

        Args:
            frames: ``(F, height, width, 3)`` uint8 RGB.
            blank: How many black frames follow them; with ``F`` as many as latents decode to.
        """
        stream, means = Stream(), []
        for first in (0, *range(1, len(frames) + blank, _CHUNK)):
            count = _CHUNK if first else 1
            shown = frames[first : first + count]
            pixels = self._pixels(shown, blank=count - len(shown))
            mean, _ = self._encoder(pixels, stream).chunk(2, dim=1)
            means.append(((mean - self._shift) * self._scale).cpu())
        return torch.cat(means, dim=2)

    def _pixels(self, frames: Tensor, blank: int) -> Tensor:
        """Return frames and ``blank`` black ones as the VAE takes them, ``(1, 3, F, ...)``."""
        pixels = frames.permute(3, 0, 1, 2).to(self._weight) / 255.0
        black = pixels.new_zeros(3, blank, *pixels.shape[2:])
        return 2.0 * torch.cat([pixels, black], dim=1)[None] - 1.0
