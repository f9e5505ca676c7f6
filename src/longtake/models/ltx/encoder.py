"""LTX-Video's VAE as an encoder: the first frames of a video, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
from diffusers import AutoencoderKLLTXVideo
from diffusers.models.autoencoders.autoencoder_kl_ltx import (
    LTXVideoCausalConv3d,
    LTXVideoDownBlock3D,
)
from einops import rearrange
from torch import Tensor

from longtake.models.base import Placement
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import load_vae
from longtake.models.ltx.layers import normed, resnet
from longtake.models.ltx.streams import Stream, convolve, double_first, each, join
from longtake.models.video_frames import VideoFrames


@final
class LTXEncoder:
    """Encodes video frames to the mean of their latents, a latent frame at a time.

    What ``vae.encode`` encodes at once: its convolutions look back only, and keep the frames that
    they need.

    Args:
        vae: With its encoder; the decoder is not needed.
    """

    def __init__(self, vae: AutoencoderKLLTXVideo) -> None:
        self._encoder: Any = vae.encoder
        self._mean, self._std = (
            part.view(1, -1, 1, 1, 1) for part in (vae.latents_mean, vae.latents_std)
        )
        self._scaling = vae.config.scaling_factor
        self._chunk = vae.temporal_compression_ratio

    @classmethod
    def load(cls, folder: ModelFolder, device: torch.device) -> LTXEncoder:
        """Load the VAE's encoder alone, in fp32.

        Raises:
            ModelError: The folder's VAE has none.
        """
        place, build = Placement(device, torch.float32), AutoencoderKLLTXVideo.from_config
        return cls(load_vae(folder, build, place, without=("decoder",)))

    @torch.no_grad()
    def encode(self, frames: VideoFrames) -> Tensor:
        """Return latents ``(1, C, F', H, W)`` on the CPU, as a sampler leaves finished frames.

        Args:
            frames: ``(F, height, width, 3)`` uint8 RGB, as many as some latent frames decode to.
        """
        means = [
            ((moments[:, :-1] - self._mean) * self._scaling / self._std).cpu()
            for moments in _through(self._encoder, self._pixels(frames))
            if moments is not None
        ]
        return torch.cat(means, dim=2)

    def _pixels(self, frames: VideoFrames) -> Iterator[Tensor]:
        """Yield the first frame, then as many as a latent frame has, ``(1, 3, F, ...)``."""
        for first in (0, *range(1, len(frames), self._chunk)):
            shown = frames[first : first + (self._chunk if first else 1)]
            yield 2.0 * (shown.permute(3, 0, 1, 2)[None].to(self._mean) / 255.0) - 1.0


def _through(encoder: Any, stream: Stream) -> Stream:
    """Send frames through all layers of the encoder: the last channel is a log-variance."""
    generator = torch.Generator()  # encoders add no noise
    patches = "b c (f t) (h p) (w q) -> b (c t q p) f h w"
    sizes = {"t": encoder.patch_size_t, "p": encoder.patch_size, "q": encoder.patch_size}
    stream = convolve(encoder.conv_in, each(lambda x: rearrange(x, patches, **sizes), stream))
    for part in encoder.down_blocks:
        stream = _resnets(part, generator, stream)
        for downsampler in part.downsamplers or ():
            stream = _downsample(downsampler, stream)
        if isinstance(part, LTXVideoDownBlock3D) and part.conv_out is not None:
            stream = resnet(part.conv_out, None, generator, stream)
    stream = _resnets(encoder.mid_block, generator, stream)
    activated = each(lambda x: encoder.conv_act(normed(encoder.norm_out, x)), stream)
    return convolve(encoder.conv_out, activated)


def _resnets(part: Any, generator: torch.Generator, stream: Stream) -> Stream:
    for layer in part.resnets:
        stream = resnet(layer, None, generator, stream)
    return stream


def _downsample(downsampler: Any, stream: Stream) -> Stream:
    """Halve what the layer halves: by a convolution, or by turning positions into channels."""
    if isinstance(downsampler, LTXVideoCausalConv3d):
        return convolve(downsampler, stream)
    frames, rows, columns = downsampler.stride

    def gather(x: Tensor) -> Tensor:
        parts = "b c (f t) (h h2) (w w2) -> b (c t h2 w2) f h w"
        return rearrange(x, parts, t=frames, h2=rows, w2=columns)

    def combine(convolved: Tensor, inputs: Tensor) -> Tensor:
        groups = rearrange(gather(inputs), "b (c g) f h w -> b c g f h w", g=downsampler.group_size)
        found: Tensor = gather(convolved) + groups.mean(dim=2)
        return found

    doubled = double_first(frames - 1, stream)
    return join(lambda x: convolve(downsampler.conv, x), combine, doubled)
