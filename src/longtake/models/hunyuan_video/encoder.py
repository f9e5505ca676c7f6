"""HunyuanVideo's VAE as an encoder: the first frames of a video, in tiles that overlap in time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

from longtake.models.base import Placement
from longtake.models.decoders.overlap import fade
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import load_vae
from longtake.models.video_frames import VideoFrames


@final
class HunyuanVideoEncoder:
    """Encodes video frames as ``AutoencoderKLHunyuanVideo.encode`` does: to their latents' mean.

    Its norms see all frames of a tile, so diffusers' own tiles along time are kept. One is on the
    device at a time, however long the video.

    Args:
        vae: With its encoder; the decoder is not needed.
    """

    def __init__(self, vae: AutoencoderKLHunyuanVideo) -> None:
        self._vae = vae
        self._weight = next(vae.encoder.parameters())

    @classmethod
    def load(cls, folder: ModelFolder, device: torch.device) -> HunyuanVideoEncoder:
        """Load the VAE's encoder alone, in fp32.

        Raises:
            ModelError: The folder's VAE has none.
        """
        place, build = Placement(device, torch.float32), AutoencoderKLHunyuanVideo.from_config
        return cls(load_vae(folder, build, place, without=("decoder", "post_quant_conv")))

    @torch.no_grad()
    def encode(self, frames: VideoFrames) -> Tensor:
        """Return latents ``(1, C, F', H, W)`` on the CPU, as a sampler leaves finished frames.

        Args:
            frames: ``(F, height, width, 3)`` uint8 RGB, as many as some latent frames decode to.
        """
        scaling: float = self._vae.config.scaling_factor
        means = [moments.chunk(2, dim=1)[0] for moments in self._tiles(frames)]
        return torch.cat(means, dim=2) * scaling

    def _tiles(self, frames: VideoFrames) -> Iterator[Tensor]:
        """Yield the moments of one tile after the other, up to where it fades into the next one."""
        vae, temporal = self._vae, self._vae.temporal_compression_ratio
        size, stride = vae.tile_sample_min_num_frames, vae.tile_sample_stride_num_frames
        if len(frames) <= size:
            yield self._encode(frames[:])
            return
        blend, before = (size - stride) // temporal, None
        for first in range(0, len(frames), stride):
            tile = self._encode(frames[first : first + size + 1])
            if before is not None:  # the first latent frame is the tile's before
                tile = fade(before, tile[:, :, 1:])
            if tile.shape[2]:
                yield tile[:, :, : stride // temporal + (before is None)]
            before = tile[:, :, -blend:]

    def _encode(self, frames: Tensor) -> Tensor:
        """Return the moments of a tile ``(1, 2 C, F', H, W)``, on the CPU."""
        pixels = frames.permute(3, 0, 1, 2)[None].to(self._weight) / 255.0
        moments: Tensor = self._vae.quant_conv(self._vae.encoder(2.0 * pixels - 1.0))
        return moments.cpu()
