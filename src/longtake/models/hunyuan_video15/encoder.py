"""HunyuanVideo 1.5's VAE as an encoder: the first frames of a video, a latent frame at a time."""

from __future__ import annotations

from typing import Any, final

import torch
from diffusers import AutoencoderKLHunyuanVideo15
from einops import rearrange, reduce
from torch import Tensor

from longtake.models.base import Placement
from longtake.models.hunyuan_video15.layers import (
    HunyuanVideo15VaeState,
    convolve,
    middle,
    resnet_block,
)
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import load_vae
from longtake.models.video_frames import VideoFrames


@final
class HunyuanVideo15Encoder:
    """Encodes video frames as ``AutoencoderKLHunyuanVideo15.encode`` does: to their latents' mean.

    All modules look back only, and what they have seen is kept; the attention sees as many latent
    frames as a clip has (see ``HunyuanVideo15Decoder``).

    Args:
        vae: With its encoder; the decoder is not needed.
        window: Latent frames that the attention sees, the present one included.
    """

    def __init__(self, vae: AutoencoderKLHunyuanVideo15, window: int) -> None:
        self._encoder: Any = vae.encoder
        self._scaling = vae.config.scaling_factor
        self._chunk = vae.config.temporal_compression_ratio
        self._weight = next(vae.encoder.parameters())
        self._window = window

    @classmethod
    def load(cls, folder: ModelFolder, device: torch.device, window: int) -> HunyuanVideo15Encoder:
        """Load the VAE's encoder alone, in fp32.

        Raises:
            ModelError: The folder's VAE has none.
        """
        place, build = Placement(device, torch.float32), AutoencoderKLHunyuanVideo15.from_config
        return cls(load_vae(folder, build, place, without=("decoder",)), window)

    @torch.no_grad()
    def encode(self, frames: VideoFrames) -> Tensor:
        """Return latents ``(1, C, F', H, W)`` on the CPU, as a sampler leaves finished frames.

        Args:
            frames: ``(F, height, width, 3)`` uint8 RGB, as many as some latent frames decode to.
        """
        state, means = HunyuanVideo15VaeState(), []
        for first in (0, *range(1, len(frames), self._chunk)):
            shown = frames[first : first + (self._chunk if first else 1)]
            pixels = shown.permute(3, 0, 1, 2)[None].to(self._weight) / 255.0
            mean, _ = self._frame(2.0 * pixels - 1.0, state).chunk(2, dim=1)
            means.append((mean * self._scaling).cpu())
        return torch.cat(means, dim=2)

    def _frame(self, x: Tensor, state: HunyuanVideo15VaeState) -> Tensor:
        """Encode the video frames of the next latent frame."""
        encoder = self._encoder
        x = convolve(encoder.conv_in, x, state)
        for part in encoder.down_blocks:
            for resnet in part.resnets:
                x = resnet_block(resnet, x, state)
            for downsampler in part.downsamplers or ():
                x = _downsample(downsampler, x, state)
        x = middle(encoder.mid_block, x, state, self._window)
        h = convolve(encoder.conv_out, encoder.conv_act(encoder.norm_out(x)), state)
        return h + _mean(x, encoder.group_size)


def _downsample(downsampler: Any, x: Tensor, state: HunyuanVideo15VaeState) -> Tensor:
    """Gather channels from space, and from time but for the first frame of the video."""
    first, group = downsampler.conv not in state.seen, downsampler.group_size
    h = convolve(downsampler.conv, x, state)
    if not downsampler.add_temporal_downsample:
        return _gather(h, 1) + _mean(_gather(x, 1), group)
    if not first:
        return _gather(h, 2) + _mean(_gather(x, 2), group)
    return _gather(h, 1).repeat(1, 2, 1, 1, 1) + _mean(_gather(x, 1), group // 2)


def _gather(x: Tensor, times: int) -> Tensor:
    return rearrange(x, "b c (f t) (h p) (w q) -> b (t p q c) f h w", t=times, p=2, q=2)


def _mean(x: Tensor, group: int) -> Tensor:
    found: Tensor = reduce(x, "b (c g) f h w -> b c f h w", "mean", g=group)
    return found
