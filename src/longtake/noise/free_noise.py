"""FreeNoise: a first clip's noise, and the same frames shuffled again and again after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.noise.base import NoiseInit, NoiseSource
from longtake.task import FrameRange


@final
class FreeNoise(NoiseInit):
    """Draw the first frames, and take all others from them, shuffled piece by piece.

    Every ``length - overlap`` frames after the first ``length`` are a permutation of those that
    stand ``length`` before them. So windows of ``length`` frames that are ``length - overlap``
    apart all hold the same noise in another order, which keeps a video of context windows
    consistent. Blocks cut the video anywhere: what a frame gets depends on its place alone. A
    last piece that is shorter takes the first of a whole one.

    Args:
        length: Latent frames drawn, those of a context window.
        overlap: Latent frames that adjacent windows share, fewer than ``length``.

    Raises:
        ConfigurationError: The numbers cannot be.
    """

    def __init__(self, length: int = 21, overlap: int = 7) -> None:
        if length < 1:
            raise ConfigurationError(
                f"the noise FreeNoise cannot draw {length} latent frames; the least is 1."
            )
        if not 0 <= overlap < length:
            raise ConfigurationError(
                f"the noise FreeNoise cannot repeat windows of {length} latent frames that overlap "
                f"by {overlap}: the next window has to begin after this one; the nearest overlap "
                f"is {min(max(overlap, 0), length - 1)}."
            )
        self.length = length
        self.overlap = overlap

    @override
    def blocks(self, source: NoiseSource, cut: Iterable[FrameRange]) -> Iterator[Tensor]:
        def permutation(piece: int, frames: int) -> list[int]:
            generator = source.generator("free noise shuffle", piece)
            order: list[int] = torch.randperm(frames, generator=generator).tolist()
            return order

        drawn = source.normal(self.length, "free noise", 0)
        order = free_noise_order(None, self.length, self.overlap, permutation)
        for frames in cut:
            yield drawn[:, :, list(islice(order, len(frames)))]


def free_noise_order(
    frames: int | None,
    length: int,
    overlap: int,
    permutation: Callable[[int, int], Sequence[int]],
) -> Iterator[int]:
    """Yield, frame by frame, which of the first ``length`` frames' noise it has.

    Lazy: a piece's permutation is asked for when its first frame is.

    Args:
        frames: Latent frames of the video; ``None`` for an endless one.
        length: Latent frames with noise of their own.
        overlap: Fewer than ``length``; a piece has ``length - overlap`` frames.
        permutation: Given the number of a piece, from 0, and its frames (fewer in the last piece
            of a video that ends within it), returns ``0 .. frames - 1`` in the order wanted.
    """
    before = list(range(length))
    yield from before[:frames]
    for piece in count():
        begin = length + piece * (length - overlap)
        size = length - overlap if frames is None else min(length - overlap, frames - begin)
        if size <= 0:
            return
        shuffled = [before[place] for place in permutation(piece, size)]
        yield from shuffled
        before = before[size:] + shuffled
