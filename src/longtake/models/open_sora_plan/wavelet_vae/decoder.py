"""Open-Sora-Plan's wavelet VAE, decoded as an endless stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.models.base import VideoDecoder
from longtake.models.open_sora_plan.wavelet_vae.model import WaveletVae
from longtake.models.open_sora_plan.wavelet_vae.stream import Stream


@final
class WaveletDecoder(VideoDecoder[Stream]):
    """Decode latent frame by latent frame, with what the causal modules have seen kept.

    Nothing is computed twice. Frames are made between frames, so that the last two video frames
    wait for a further latent frame or for the end. Equal to decoding the whole video at once; the
    published code's chunks of two latent frames are not, where they leave one for the last.

    Args:
        vae: With its decoder; the encoder is not needed.
    """

    def __init__(self, vae: WaveletVae) -> None:
        self._decoder: Any = vae.decoder
        weight = next(vae.decoder.parameters())
        self._scale, self._shift = (
            weight.new_tensor(numbers).view(1, -1, 1, 1, 1)
            for numbers in (vae.config.scale, vae.config.shift)
        )

    @override
    def start(self) -> Stream:
        return {}

    @override
    def decode(self, state: Stream, latents: Tensor) -> Iterator[Tensor]:
        z = latents.to(self._scale) / self._scale + self._shift
        for frame in torch.split(z, 1, dim=2):
            yield _pictures(self._decoder(frame, state))

    @override
    def finish(self, state: Stream) -> Iterator[Tensor]:
        last = self._decoder.finish(state)
        if last is not None:
            yield _pictures(last)


def _pictures(video: Tensor) -> Tensor:
    return video[0].transpose(0, 1).clamp(-1.0, 1.0)
