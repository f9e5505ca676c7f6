"""Read frames: the frames of a file, decoded as they are asked for, in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import final

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


@final
class ReadFrames:
    """Video frames of one size, as ``longtake.models.VideoFrames`` are.

    A slice decodes what it lacks, and what is before its first frame is forgotten: whoever goes
    forward holds as many frames as a slice has. Whoever goes back has the file read once more.

    Args:
        wanted: Which pictures of the file they are, by number; some may be several frames.
        read: Decodes pictures by number, each once.
        height: Pixels. Pictures are cropped around the center to this shape, and resized.
        width: Pixels.
    """

    def __init__(
        self,
        wanted: Sequence[int],
        read: Callable[[Sequence[int]], Iterator[tuple[int, Image.Image]]],
        height: int,
        width: int,
    ) -> None:
        self._wanted, self._read = wanted, read
        self._size = (width, height)
        self._pictures = read(wanted)
        self._held: dict[int, np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]] = {}
        self._first = 0

    def __len__(self) -> int:
        return len(self._wanted)

    def __getitem__(self, places: slice, /) -> Tensor:
        """Return ``(frames, height, width, 3)`` uint8 RGB.

        Raises:
            ConfigurationError: One cannot be decoded.
        """
        numbers = self._wanted[places]
        if not len(numbers):
            return torch.empty(0, *self._size[::-1], 3, dtype=torch.uint8)
        if numbers[0] < self._first:
            self._pictures = self._read(self._wanted)
            self._held.clear()
        self._first = numbers[0]
        self._held = {n: shown for n, shown in self._held.items() if n >= self._first}
        missing = set(numbers) - self._held.keys()
        while missing:
            number, image = next(self._pictures)
            if number >= self._first:
                fitted = ImageOps.fit(image, self._size, Image.Resampling.LANCZOS)
                self._held[number] = np.asarray(fitted)
                missing.discard(number)
        return torch.from_numpy(np.stack([self._held[number] for number in numbers]))
