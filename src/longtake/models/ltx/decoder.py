"""LTX-Video's VAE as a stream: exact, though its convolutions look ahead."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, final

import torch
from diffusers import AutoencoderKLLTXVideo
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from longtake.models.base import VideoDecoder
from longtake.models.ltx.layers import modulation, normed, resnet, resnets, time_of
from longtake.models.ltx.streams import Stream, convolve, each, join, skip

_NOISE_SEED: Final = 0
"""Of the noise that some versions add inside the decoder; the next one: of that in the latents."""


@dataclass(slots=True)
class LTXDecoderState:
    """What is on its way through the decoder; it grows with the number of layers only.

    Args:
        latents: That no layer has taken yet.
        ended: Whether no more will come.
        video: What comes out of the last layer. Every layer holds what it still needs.
        noise: Of what is mixed into the latents.
    """

    latents: deque[Tensor] = field(default_factory=deque)
    ended: bool = False
    video: Stream = field(default_factory=lambda: iter(()))
    noise: torch.Generator = field(
        default_factory=lambda: torch.Generator().manual_seed(_NOISE_SEED + 1)
    )


@final
class LTXDecoder(VideoDecoder[LTXDecoderState]):
    """Decode latent frame by latent frame what ``vae.decode`` decodes at once.

    Everything but the convolutions takes frames one by one, and a convolution looks one frame
    back and one ahead. So each waits for the frame ahead and keeps those behind: nothing is
    computed twice, nothing is faded, and the video is that of the whole. (diffusers' tiles along
    time decode a latent frame three times, and show all tiles but the first a frame late.) The
    price is that a picture waits for the latent frames after it that it depends on: 24 in
    LTX-Video 0.9.0, 22 in 0.9.1.

    All noise is drawn from fixed seeds on the CPU: that which layers of some versions add, a
    picture of it for all frames, and that which is mixed into latents, one latent frame after
    another, so that it does not matter how they are cut into blocks.

    Args:
        vae: With its decoder; the encoder is not needed.
        timestep: That a decoder which is conditioned on one is told (the pipeline's
            ``decode_timestep``).
        noise_scale: How much of the latents of such a decoder is noise (``decode_noise_scale``).
    """

    def __init__(
        self, vae: AutoencoderKLLTXVideo, timestep: float = 0.0, noise_scale: float = 0.0
    ) -> None:
        self._decoder = vae.decoder
        self._mean, self._std = (
            part.view(1, -1, 1, 1, 1) for part in (vae.latents_mean, vae.latents_std)
        )
        self._scaling = vae.config.scaling_factor
        self._timestep = timestep
        self._noise_scale = noise_scale if vae.config.timestep_conditioning else 0.0

    @override
    def start(self) -> LTXDecoderState:
        state = LTXDecoderState()
        multiplier = self._decoder.timestep_scale_multiplier
        level = self._timestep * float(1.0 if multiplier is None else multiplier)
        state.video = _through(self._decoder, level, _source(state))
        return state

    @override
    def decode(self, state: LTXDecoderState, latents: Tensor) -> Iterator[Tensor]:
        latents = latents.to(self._mean)
        latents = latents * self._std / self._scaling + self._mean
        state.latents.extend(self._noised(state, part) for part in torch.split(latents, 1, dim=2))
        while (frames := next(state.video)) is not None:
            yield _pictures(frames)

    def _noised(self, state: LTXDecoderState, latents: Tensor) -> Tensor:
        """Return a latent frame with noise mixed in, where there is to be some."""
        if self._noise_scale == 0.0:
            return latents
        noise = torch.randn(latents.shape, generator=state.noise, dtype=latents.dtype)
        return torch.lerp(latents, noise.to(latents.device), self._noise_scale)

    @override
    def finish(self, state: LTXDecoderState) -> Iterator[Tensor]:
        state.ended = True
        yield from (_pictures(frames) for frames in state.video if frames is not None)


def _source(state: LTXDecoderState) -> Stream:
    while state.latents or not state.ended:
        yield state.latents.popleft() if state.latents else None


def _through(decoder: Any, level: float, stream: Stream) -> Stream:
    """Send latents through all layers of the decoder, which may be told a timestep."""
    generator = torch.Generator().manual_seed(_NOISE_SEED)
    stream = convolve(decoder.conv_in, stream)
    stream = resnets(decoder.mid_block, level, generator, stream)
    for part in decoder.up_blocks:
        if part.conv_in is not None:
            stream = resnet(part.conv_in, None, generator, stream)
        for upsampler in part.upsamplers or ():
            stream = _upsample(upsampler, stream)
        stream = resnets(part, level, generator, stream)
    shift, scale = modulation(time_of(decoder, level), decoder.scale_shift_table, 2)
    activated = each(
        lambda x: decoder.conv_act(normed(decoder.norm_out, x) * (1 + scale) + shift), stream
    )
    patches = "b (c t w2 h2) f h w -> b c (f t) (h h2) (w w2)"
    sizes = {"t": decoder.patch_size_t, "h2": decoder.patch_size, "w2": decoder.patch_size}
    return each(lambda x: rearrange(x, patches, **sizes), convolve(decoder.conv_out, activated))


def _upsample(upsampler: Any, stream: Stream) -> Stream:
    """Turn channels into frames, rows and columns; the first frame of a video becomes one."""
    frames, rows, columns = upsampler.stride

    def spread(x: Tensor) -> Tensor:
        parts = "b (c t h2 w2) f h w -> b c (f t) (h h2) (w w2)"
        return rearrange(x, parts, t=frames, h2=rows, w2=columns)

    def combine(convolved: Tensor, inputs: Tensor) -> Tensor:
        if not upsampler.residual:
            return spread(convolved)
        repeats = math.prod(upsampler.stride) // upsampler.upscale_factor
        return spread(convolved) + spread(inputs).repeat(1, repeats, 1, 1, 1)

    return skip(frames - 1, join(lambda x: convolve(upsampler.conv, x), combine, stream))


def _pictures(video: Tensor) -> Tensor:
    """Return ``(frames, 3, height, width)`` in ``[-1, 1]``."""
    return video[0].transpose(0, 1).clamp(-1.0, 1.0)
