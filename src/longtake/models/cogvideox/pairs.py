"""Pairs of latent frames: CogVideoX 1.5 puts two into every token.

Here a pair is one latent frame of twice the channels (each channel of the first, then of the second
frame), so that blocks are cut between pairs, and nothing else has to know. A video is an odd number
of the VAE's latent frames: the first one of the first pair stands before it and is not decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import torch
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from longtake.models.base import VideoDecoder
from longtake.models.cogvideox.decoder import CogVideoXDecoder, CogVideoXDecoderState

PAIR: Final = 2


def paired(latents: Tensor) -> Tensor:
    """Return the latents ``(1, C, 2 F - 1, H, W)`` of a video as pairs ``(1, 2 C, F, H, W)``.

    Its first frame is twice in the first pair, as in the pipeline from an image.
    """
    whole = torch.cat([latents[:, :, :1], latents], dim=2)
    return rearrange(whole, "b c (f t) h w -> b (c t) f h w", t=PAIR)


def before_the_video(pair: Tensor) -> Tensor:
    """Return a pair ``(1, 2 C, 1, H, W)`` that tells the model of an image.

    It was trained with the image in the frame that stands before the video, and nothing after it.
    """
    frames = unpaired(pair)
    return rearrange(
        torch.cat([frames[:, :, :1], torch.zeros_like(frames[:, :, 1:])], dim=2),
        "b c (f t) h w -> b (c t) f h w",
        t=PAIR,
    )


def unpaired(pairs: Tensor) -> Tensor:
    """Return pairs ``(1, 2 C, F, H, W)`` as the VAE's latent frames ``(1, C, 2 F, H, W)``."""
    return rearrange(pairs, "b (c t) f h w -> b c (f t) h w", t=PAIR)


@dataclass(slots=True)
class PairsState:
    """What is carried from one block to the next.

    Args:
        frames: Of the VAE's own stream.
        begun: Whether the video's first pair has come.
    """

    frames: CogVideoXDecoderState
    begun: bool = False


@final
class PairsDecoder(VideoDecoder[PairsState]):
    """Decode pairs of latent frames, without the frame that stands before the video.

    Args:
        decoder: Of single latent frames.
    """

    def __init__(self, decoder: CogVideoXDecoder) -> None:
        self._decoder = decoder

    @override
    def start(self) -> PairsState:
        return PairsState(self._decoder.start())  # of an odd number of them

    @override
    def decode(self, state: PairsState, latents: Tensor) -> Iterator[Tensor]:
        frames = unpaired(latents)
        if not state.begun and frames.shape[2]:
            frames, state.begun = frames[:, :, 1:], True
        yield from self._decoder.decode(state.frames, frames)

    @override
    def finish(self, state: PairsState) -> Iterator[Tensor]:
        yield from self._decoder.finish(state.frames)
