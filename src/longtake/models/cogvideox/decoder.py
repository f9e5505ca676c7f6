"""CogVideoX's causal VAE, decoded as an endless stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
"""Latent frames that are decoded together, as the VAE was trained; the first ones are one more."""


@dataclass(slots=True)
class CogVideoXDecoderState:
    """What is carried from one batch of latent frames to the next; its size has a fixed limit.

    Args:
        waiting: Latent frames that are too few for a batch.
        convolutions: The last frames that each causal convolution has seen, for every tile of
            the picture (one, unless the VAE tiles); empty before the video begins.
    """

    waiting: Tensor | None = None
    convolutions: list[Seen] = field(default_factory=list)


@final
class CogVideoXDecoder(VideoDecoder[CogVideoXDecoderState]):
    """Decode batch by batch, with what causal convolutions have seen kept.

    The norms see all frames of a batch, so batches must be those of
    ``AutoencoderKLCogVideoX.decode``: latent frames in pairs, but three at the start of a video
    of an odd number of them. Then decoding is bit-equal to it, wherever blocks are cut, in
    constant memory. At most two latent frames are held back.

    With an even number diffusers begins with a pair, gives all of its frames four video frames,
    and so makes three too many. Here the first latent frame is always one video frame, and a
    last one without a partner is decoded beside a copy of itself: bit-equal to
    ``AutoencoderKLCogVideoX.decode`` of the video with its last frame doubled, up to that copy.

    Args:
        vae: With its decoder, the encoder is not needed; spatial tiles are used if they are
            enabled. It decodes single batches from now on.
    """

    def __init__(self, vae: AutoencoderKLCogVideoX) -> None:
        self._vae, self._decoder = vae, vae.decoder
        self._weight = next(vae.decoder.parameters())
        self._temporal = int(vae.config.temporal_compression_ratio)
        del vae.decoder  # every batch gets its own

    @override
    def start(self) -> CogVideoXDecoderState:
        return CogVideoXDecoderState()

    @override
    def decode(self, state: CogVideoXDecoderState, latents: Tensor) -> Iterator[Tensor]:
        latents = latents.to(self._weight)
        waiting = latents if state.waiting is None else torch.cat((state.waiting, latents), dim=2)
        while waiting.shape[2] >= (count := _PAIR if state.convolutions else _PAIR + 1):
            yield self._pictures(state, waiting[:, :, :count])
            waiting = waiting[:, :, count:]
        state.waiting = waiting.clone()  # a view would keep the block

    @override
    def finish(self, state: CogVideoXDecoderState) -> Iterator[Tensor]:
        waiting = state.waiting
        if waiting is None or not waiting.shape[2]:
            return
        if waiting.shape[2] == 1 and not state.convolutions:  # a single picture
            yield self._pictures(state, waiting)
            return
        doubled = torch.cat((waiting, waiting[:, :, -1:]), dim=2)
        yield self._pictures(state, doubled)[: -self._temporal]

    def _pictures(self, state: CogVideoXDecoderState, latents: Tensor) -> Tensor:
        """Decode a batch; return ``(frames, 3, height, width)`` in ``[-1, 1]``."""
        latents = latents * (1 / self._vae.config.scaling_factor)
        with self._going_on(state):
            video: Tensor = self._vae.decode(latents, return_dict=False)[0]
        return video[0].transpose(0, 1).clamp(-1.0, 1.0)

    @contextmanager
    def _going_on(self, state: CogVideoXDecoderState) -> Iterator[None]:
        """Let the VAE decode a batch as the one after ``state``, not as a video of its own.

        The VAE cuts the picture into tiles, if any, and puts them together again; the decoder
        that it calls for each, always in the same order, begins where the tile's last call ended.
        """
        seen, state.convolutions = state.convolutions, []

        def decoder(latents: Tensor, conv_cache: None) -> tuple[Tensor, None]:
            before = seen.pop(0) if seen else None  # not kept beside what follows it
            video, convolutions = self._decoder(latents, conv_cache=before)
            state.convolutions.append(_looked_back_at(convolutions))
            return video, None

        self._vae.decoder = decoder
        try:
            yield
        finally:
            del self._vae.decoder


def _looked_back_at(seen: Seen) -> Seen:
    """Return what is needed later, without all frames of a batch that diffusers keeps for nothing.

    At 480x720, in tiles, these are 5 GB beside the 7 GB that are needed.
    """
    return {
        name: _looked_back_at(part) if isinstance(part, dict) else part
        for name, part in seen.items()
        if name not in _POINTWISE
    }
