"""CogVideoX's causal VAE, decoded as an endless stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias, final

import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor
from typing_extensions import override

from longtake.models.base import VideoDecoder

Seen: TypeAlias = "dict[str, Tensor | Seen]"
"""The last frames that the causal convolutions of a decoder's parts have seen."""

_POINTWISE: Final = ("conv_y", "conv_b")
"""Convolutions of a norm, which see one frame at a time."""
_PAIR: Final = 2
"""Latent frames that are decoded together, as the VAE was trained; the first ones may be more."""


@dataclass(slots=True)
class CogVideoXDecoderState:
    """What is carried from one batch of latent frames to the next; its size has a fixed limit.

    Args:
        first: Latent frames of the first batch.
        waiting: Latent frames that are too few for a batch.
        seen: The last frames that each causal convolution has seen; ``None`` before the video
            begins.
    """

    first: int = _PAIR + 1
    waiting: Tensor | None = None
    seen: Seen | None = None


@final
class CogVideoXDecoder(VideoDecoder[CogVideoXDecoderState]):
    """Decode batch by batch, with what causal convolutions have seen kept.

    The norms see all frames of a batch, so batches must be those of
    ``AutoencoderKLCogVideoX.decode``: latent frames in pairs, but three at the start of a video
    of an odd number of them. Then decoding is the very same calls, wherever blocks are cut, in
    constant memory. At most two latent frames are held back.

    With an even number diffusers begins with a pair, and gives all of its latent frames
    four video frames, the very first one too: three more than such a video has. Of the first four,
    the last is kept, so every latent frame stays where it is in time.

    Where the length is not known beforehand (an endless video, or one that is stopped) it counts
    as odd, and a last latent frame without a partner is decoded beside a copy of itself.

    Args:
        vae: With its decoder, the encoder is not needed.
    """

    def __init__(self, vae: AutoencoderKLCogVideoX) -> None:
        self._vae = vae
        self._weight = next(vae.decoder.parameters())
        self._temporal = int(vae.config.temporal_compression_ratio)

    @override
    def start(self) -> CogVideoXDecoderState:
        return CogVideoXDecoderState()

    @override
    def start_of(self, latent_frames: int | None) -> CogVideoXDecoderState:
        even = latent_frames is not None and latent_frames % _PAIR == 0
        return CogVideoXDecoderState(first=_PAIR if even else _PAIR + 1)

    @override
    def decode(self, state: CogVideoXDecoderState, latents: Tensor) -> Iterator[Tensor]:
        latents = latents.to(self._weight)
        waiting = latents if state.waiting is None else torch.cat((state.waiting, latents), dim=2)
        while waiting.shape[2] >= (count := state.first if state.seen is None else _PAIR):
            yield self._pictures(state, waiting[:, :, :count])
            waiting = waiting[:, :, count:]
        state.waiting = waiting.clone()  # a view would keep the block

    @override
    def finish(self, state: CogVideoXDecoderState) -> Iterator[Tensor]:
        waiting = state.waiting
        if waiting is None or not waiting.shape[2]:
            return
        if waiting.shape[2] == 1 and state.seen is None:  # a single picture
            yield self._pictures(state, waiting)
            return
        doubled = torch.cat((waiting, waiting[:, :, -1:]), dim=2)
        yield self._pictures(state, doubled)[: -self._temporal]

    def _pictures(self, state: CogVideoXDecoderState, latents: Tensor) -> Tensor:
        """Decode the batch after ``state``: ``(frames, 3, height, width)`` in ``[-1, 1]``."""
        begins = state.seen is None
        latents = latents * (1 / self._vae.config.scaling_factor)
        if self._vae.post_quant_conv is not None:
            latents = self._vae.post_quant_conv(latents)
        before, state.seen = state.seen, None  # not kept beside what follows it
        decoded: tuple[Tensor, Seen] = self._vae.decoder(latents, conv_cache=before)
        video, seen = decoded
        state.seen = _looked_back_at(seen)
        excess = self._temporal - 1 if begins and latents.shape[2] == _PAIR else 0
        return video[0].transpose(0, 1)[excess:].clamp(-1.0, 1.0)


def _looked_back_at(seen: Seen) -> Seen:
    """Return what is needed later, without all frames of a batch that diffusers keeps for nothing.

    At 480x720, in diffusers' tiles, these are 5 GB beside the 7 GB that are needed.
    """
    return {
        name: _looked_back_at(part) if isinstance(part, dict) else part
        for name, part in seen.items()
        if name not in _POINTWISE
    }
