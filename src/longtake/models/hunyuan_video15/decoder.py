"""HunyuanVideo 1.5's VAE, decoded as an endless stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

from diffusers import AutoencoderKLHunyuanVideo15
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from longtake.models.base import VideoDecoder
from longtake.models.hunyuan_video15.layers import (
    HunyuanVideo15VaeState,
    convolve,
    middle,
    resnet_block,
)


@final
class HunyuanVideo15Decoder(VideoDecoder[HunyuanVideo15VaeState]):
    """Decode latent frame by latent frame, with what the causal modules have seen kept.

    All modules of the VAE look back only: its convolutions two frames far, its attention at all
    frames of the video. Here it looks back at as many latent frames as the clips that the model
    makes have. A video of at most that length equals ``AutoencoderKLHunyuanVideo15.decode`` of the
    whole; a longer one has no seams, and takes no more memory.

    diffusers' own forward knows no state, so its modules are called one by one.

    Args:
        vae: With its decoder; the encoder is not needed.
        window: Latent frames that the attention sees, the present one included.
    """

    def __init__(self, vae: AutoencoderKLHunyuanVideo15, window: int) -> None:
        self._decoder: Any = vae.decoder
        self._scaling = vae.config.scaling_factor
        self._weight = next(vae.decoder.parameters())
        self._window = window

    @override
    def start(self) -> HunyuanVideo15VaeState:
        return HunyuanVideo15VaeState()

    @override
    def decode(self, state: HunyuanVideo15VaeState, latents: Tensor) -> Iterator[Tensor]:
        z = latents.to(self._weight) / self._scaling
        for frame in z.split(1, dim=2):
            yield self._frame(frame, state)[0].transpose(0, 1).clamp(-1.0, 1.0)

    def _frame(self, z: Tensor, state: HunyuanVideo15VaeState) -> Tensor:
        """Decode the next latent frame ``(1, C, 1, H, W)`` to video frames, channels first."""
        decoder = self._decoder
        x = convolve(decoder.conv_in, z, state) + z.repeat_interleave(decoder.repeat, dim=1)
        x = middle(decoder.mid_block, x, state, self._window)
        for part in decoder.up_blocks:
            for resnet in part.resnets:
                x = resnet_block(resnet, x, state)
            for upsampler in part.upsamplers or ():
                x = _upsample(upsampler, x, state)
        return convolve(decoder.conv_out, decoder.conv_act(decoder.norm_out(x)), state)


def _upsample(upsampler: Any, x: Tensor, state: HunyuanVideo15VaeState) -> Tensor:
    """Spread channels over space, and over time but for the first frame of the video."""
    first, repeats = upsampler.conv not in state.seen, upsampler.repeats
    h = convolve(upsampler.conv, x, state)
    if not upsampler.add_temporal_upsample:
        return _spread(h, 1) + _spread(x.repeat_interleave(repeats, dim=1), 1)
    if not first:
        return _spread(h, 2) + _spread(x, 2).repeat_interleave(repeats, dim=1)
    h, shortcut = _spread(h, 1), _spread(x, 1)
    return h[:, : h.shape[1] // 2] + shortcut.repeat_interleave(repeats // 2, dim=1)


def _spread(x: Tensor, times: int) -> Tensor:
    return rearrange(x, "b (t p q c) f h w -> b c (f t) (h p) (w q)", t=times, p=2, q=2)
