"""CogVideoX's causal VAE as an encoder: the first frames of a video, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, final

import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from longtake.models.base import Placement
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import load_vae
from longtake.models.video_frames import VideoFrames

_BATCH: Final = 8
"""Video frames that the encoder takes at once, as in diffusers; the first ones are up to 15."""


@final
class CogVideoXEncoder:
    """Encodes video frames as ``AutoencoderKLCogVideoX.encode`` does: the mean of the latents.

    Bit-equal to it: the same calls, with the causal convolutions' cache kept. Norms see all frames
    of a batch, so batches must be those of diffusers.

    Args:
        vae: With its encoder; the decoder is not needed.
    """

    def __init__(self, vae: AutoencoderKLCogVideoX) -> None:
        self._vae = vae
        self._weight = next(vae.encoder.parameters())

    @classmethod
    def load(cls, folder: ModelFolder, device: torch.device) -> CogVideoXEncoder:
        """Load the VAE's encoder alone, in fp32.

        Raises:
            ModelError: The folder's VAE has none.
        """
        place, build = Placement(device, torch.float32), AutoencoderKLCogVideoX.from_config
        return cls(load_vae(folder, build, place, without=("decoder", "post_quant_conv")))

    @torch.no_grad()
    def encode(self, frames: VideoFrames) -> Tensor:
        """Return means ``(1, C, F', H, W)`` on the CPU, not scaled.

        Args:
            frames: ``(F, height, width, 3)`` uint8 RGB, as many as some latent frames decode to.
        """
        means, cache = [], None
        for batch in _batches(frames):
            pixels = 2.0 * (batch.permute(3, 0, 1, 2)[None].to(self._weight) / 255.0) - 1.0
            encoded: tuple[Tensor, Any] = self._vae.encoder(pixels, conv_cache=cache)
            moments, cache = encoded
            if self._vae.quant_conv is not None:
                moments = self._vae.quant_conv(moments)
            means.append(moments.chunk(2, dim=1)[0].cpu())
        return torch.cat(means, dim=2)


def _batches(frames: VideoFrames) -> Iterator[Tensor]:
    first = len(frames) if len(frames) < _BATCH else _BATCH + len(frames) % _BATCH
    yield frames[:first]
    for start in range(first, len(frames), _BATCH):
        yield frames[start : start + _BATCH]
