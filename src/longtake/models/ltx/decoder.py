"""LTX-Video's VAE as a stream: exact, though its convolutions look ahead."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, final

import torch
from diffusers import AutoencoderKLLTXVideo
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from longtake.models.base import VideoDecoder
from longtake.models.ltx.streams import Stream, convolve, each, join, skip

_NOISE_SEED: Final = 0
"""Of the noise that some versions add inside the decoder."""


@dataclass(slots=True)
class LTXDecoderState:
    """What is on its way through the decoder; it grows with the number of layers only.

    Args:
        latents: That no layer has taken yet.
        ended: Whether no more will come.
        video: What comes out of the last layer. Every layer holds what it still needs.
    """

    latents: deque[Tensor] = field(default_factory=deque)
    ended: bool = False
    video: Stream = field(default_factory=lambda: iter(()))


@final
class LTXDecoder(VideoDecoder[LTXDecoderState]):
    """Decode latent frame by latent frame what ``vae.decode`` decodes at once.

    Everything but the convolutions takes frames one by one, and a convolution looks one frame
    back and one ahead. So each waits for the frame ahead and keeps those behind: nothing is
    computed twice, nothing is faded, and the video is that of the whole. (diffusers' tiles along
    time decode a latent frame three times, and show all tiles but the first a frame late.) The
    price is that a picture waits for the latent frames after it that it depends on: 24 in
    LTX-Video 0.9.0, 22 in 0.9.1.

    A decoder that is conditioned on a timestep gets 0, and no noise is mixed into the latents:
    the pipeline's defaults. The noise that layers of some versions add, a picture of it for all
    frames, is drawn from a fixed seed on the CPU.

    Args:
        vae: With its decoder; the encoder is not needed.
    """

    def __init__(self, vae: AutoencoderKLLTXVideo) -> None:
        self._decoder = vae.decoder
        self._mean, self._std = (
            part.view(1, -1, 1, 1, 1) for part in (vae.latents_mean, vae.latents_std)
        )
        self._scaling = vae.config.scaling_factor

    @override
    def start(self) -> LTXDecoderState:
        state = LTXDecoderState()
        state.video = _through(self._decoder, _source(state))
        return state

    @override
    def decode(self, state: LTXDecoderState, latents: Tensor) -> Iterator[Tensor]:
        latents = latents.to(self._mean)
        latents = latents * self._std / self._scaling + self._mean
        state.latents.extend(torch.split(latents, 1, dim=2))
        while (frames := next(state.video)) is not None:
            yield _pictures(frames)

    @override
    def finish(self, state: LTXDecoderState) -> Iterator[Tensor]:
        state.ended = True
        yield from (_pictures(frames) for frames in state.video if frames is not None)


def _source(state: LTXDecoderState) -> Stream:
    while state.latents or not state.ended:
        yield state.latents.popleft() if state.latents else None


def _through(decoder: Any, stream: Stream) -> Stream:
    """Send latents through all layers of the decoder."""
    generator = torch.Generator().manual_seed(_NOISE_SEED)
    stream = convolve(decoder.conv_in, stream)
    stream = _resnets(decoder.mid_block, generator, stream)
    for part in decoder.up_blocks:
        if part.conv_in is not None:
            stream = _resnet(part.conv_in, None, generator, stream)
        for upsampler in part.upsamplers or ():
            stream = _upsample(upsampler, stream)
        stream = _resnets(part, generator, stream)
    shift, scale = _modulation(_time(decoder), decoder.scale_shift_table, 2)
    activated = each(
        lambda x: decoder.conv_act(_normed(decoder.norm_out, x) * (1 + scale) + shift), stream
    )
    patches = "b (c t w2 h2) f h w -> b c (f t) (h h2) (w w2)"
    sizes = {"t": decoder.patch_size_t, "h2": decoder.patch_size, "w2": decoder.patch_size}
    return each(lambda x: rearrange(x, patches, **sizes), convolve(decoder.conv_out, activated))


def _resnets(part: Any, generator: torch.Generator, stream: Stream) -> Stream:
    time = _time(part)
    for resnet in part.resnets:
        stream = _resnet(resnet, time, generator, stream)
    return stream


def _resnet(resnet: Any, time: Tensor | None, generator: torch.Generator, stream: Stream) -> Stream:
    shift_1, scale_1, shift_2, scale_2 = _modulation(time, resnet.scale_shift_table, 4)
    act = resnet.nonlinearity

    def branch(stream: Stream) -> Stream:
        stream = each(lambda x: act(_normed(resnet.norm1, x) * (1 + scale_1) + shift_1), stream)
        stream = convolve(resnet.conv1, stream)
        stream = each(_noise(resnet.per_channel_scale1, generator), stream)
        stream = each(lambda x: act(_normed(resnet.norm2, x) * (1 + scale_2) + shift_2), stream)
        stream = convolve(resnet.conv2, stream)
        return each(_noise(resnet.per_channel_scale2, generator), stream)

    def combine(frames: Tensor, inputs: Tensor) -> Tensor:
        if resnet.conv_shortcut is not None:  # of one frame: it has no need to wait
            inputs = resnet.conv_shortcut(_normed(resnet.norm3, inputs))
        return frames + inputs

    return join(branch, combine, stream)


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


def _normed(norm: Any, x: Tensor) -> Tensor:
    normed: Tensor = norm(x.movedim(1, -1)).movedim(-1, 1)
    return normed


def _noise(scale: Tensor | None, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return what adds noise of its own scale to each channel, the same to every frame."""
    if scale is None:
        return lambda x: x
    pattern: Tensor | None = None

    def add(x: Tensor) -> Tensor:
        nonlocal pattern
        if pattern is None:  # a video's first frames come to the layers in their order
            picture = torch.randn(x.shape[-2:], generator=generator, device="cpu", dtype=x.dtype)
            pattern = (picture.to(x.device) * scale)[None, :, None]
        return x + pattern

    return add


def _time(part: Any) -> Tensor | None:
    """Return the embedding of timestep 0, ``(1, C, 1, 1, 1)``, where a part wants one."""
    if part.time_embedder is None:
        return None
    weight = part.time_embedder.timestep_embedder.linear_1.weight
    zero = torch.zeros(1, device=weight.device)
    embedding: Tensor = part.time_embedder(zero, None, None, 1, weight.dtype)
    return embedding.view(1, -1, 1, 1, 1)


def _modulation(time: Tensor | None, table: Tensor | None, count: int) -> tuple[Tensor, ...]:
    """Return shifts and scales, zeros where a layer has none."""
    if time is None or table is None:
        return (torch.zeros(()),) * count
    parts = rearrange(time, "b (n c) f h w -> n b c f h w", n=count)
    return tuple(part + row.view(1, -1, 1, 1, 1) for part, row in zip(parts, table, strict=True))


def _pictures(video: Tensor) -> Tensor:
    """Return ``(frames, 3, height, width)`` in ``[-1, 1]``."""
    return video[0].transpose(0, 1).clamp(-1.0, 1.0)
