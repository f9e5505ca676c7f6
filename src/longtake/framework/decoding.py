"""Finished blocks to video frames, a latent frame at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import final

import torch
from torch import Tensor

from longtake.framework.events import FramesDecoded
from longtake.framework.timings import Timings
from longtake.models import AnyDecoder


@final
class Decoding:
    """Decodes one video's blocks in the order of time, when it is asked to.

    Where other ranks wait for the one that decodes, asking for a little after each task lets them
    go on; with ``rest`` a block is decoded at once. The frames are the same.

    Args:
        decoder: The VAE's decoder.
        timings: Gets the seconds of part ``decode``.
    """

    def __init__(self, decoder: AnyDecoder, timings: Timings) -> None:
        self._decoder = decoder
        self._timings = timings
        self._state = decoder.start()
        self._pending: Iterator[Tensor] = iter(())

    def begin(self, latents: Tensor) -> None:
        """Take the next block's latents ``(1, C, F, H, W)``; the block before is decoded."""
        self._pending = self._decoder.decode(self._state, latents)

    def some(self) -> Iterator[FramesDecoded]:
        """Decode a latent frame, if there is one."""
        yield from islice(self.rest(), 1)

    def rest(self) -> Iterator[FramesDecoded]:
        """Decode what is left of the block."""
        while True:
            with self._timings.part("decode"):
                frames = next(self._pending, None)
                if frames is None:
                    return
                pixels = _to_uint8(frames)
            yield FramesDecoded(pixels)

    def finish(self) -> Iterator[FramesDecoded]:
        """Decode what is left of the video, with the frames that the decoder has held back."""
        yield from self.rest()
        self._pending = self._decoder.finish(self._state)
        yield from self.rest()


def _to_uint8(frames: Tensor) -> Tensor:
    """Turn frames ``(frames, 3, height, width)`` in ``[-1, 1]`` into bytes, channels last."""
    pixels = frames.mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu()
