"""Decoder of Kandinsky 5's image-to-video models: the first latent frames are evened out before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.models.base import AnyDecoder, VideoDecoder

_CHANGED: Final = 4
"""Latent frames that are evened out: the given one, and those that it leads to."""
_SEEN: Final = 9
"""Latent frames that are looked at: those, and the ones behind them that they are to be like."""
_MEAN: Final = (-0.05, 0.1)
"""How far their mean may move down and up."""
_DEVIATION: Final = (-0.1, 0.25)
"""How far their standard deviation may."""


@dataclass(slots=True)
class EvenedState:
    """What is carried from one latent frame to the next.

    Args:
        video: State of the VAE's decoder.
        waiting: The first latent frames, until there are enough; ``None``: they have been decoded.
    """

    video: Any
    waiting: Tensor | None


@final
class EvenedDecoder(VideoDecoder[EvenedState]):
    """Gives a video's first latent frames the mean and deviation of those after them.

    As ``Kandinsky5I2VPipeline`` does with whole videos, against the pattern that a given frame
    leaves. A video of no more latent frames than are changed is left as it is (the pipeline makes
    numbers of it that are not finite).

    Args:
        decoder: Of the VAE.
    """

    def __init__(self, decoder: AnyDecoder) -> None:
        self._decoder = decoder

    @override
    def start(self) -> EvenedState:
        return EvenedState(self._decoder.start(), torch.empty(0))

    @override
    def start_of(self, latent_frames: int | None) -> EvenedState:
        return EvenedState(self._decoder.start_of(latent_frames), torch.empty(0))

    @override
    def decode(self, state: EvenedState, latents: Tensor) -> Iterator[Tensor]:
        if state.waiting is not None:
            waiting = state.waiting
            latents = torch.cat([waiting, latents], dim=2) if waiting.numel() else latents
            if latents.shape[2] < _SEEN:
                state.waiting = latents
                return
            state.waiting, latents = None, evened(latents)
        yield from self._decoder.decode(state.video, latents)

    @override
    def finish(self, state: EvenedState) -> Iterator[Tensor]:
        if state.waiting is not None and state.waiting.numel():
            yield from self._decoder.decode(state.video, evened(state.waiting))
        yield from self._decoder.finish(state.video)

    @override
    def in_tiles(self, tiled: Callable[[AnyDecoder], AnyDecoder]) -> EvenedDecoder:
        return EvenedDecoder(self._decoder.in_tiles(tiled))  # whole pictures are looked at


def evened(latents: Tensor) -> Tensor:
    """Return latents ``(1, C, F, H, W)`` whose first frames are like those after them."""
    first, after = latents[:, :, :_CHANGED], latents[:, :, _CHANGED:_SEEN]
    if not after.shape[2]:
        return latents
    mean, deviation = first.mean(), first.std()
    new_mean = after.mean().clamp(mean + _MEAN[0], mean + _MEAN[1])
    new_deviation = after.std().clamp(deviation + _DEVIATION[0], deviation + _DEVIATION[1])
    changed = (first - mean) / deviation * new_deviation + new_mean
    return torch.cat([changed, latents[:, :, _CHANGED:]], dim=2)
