"""Conditioning file: an image, or a video whose end is kept, that a new video is to show."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Final, final

import av
import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.paths import expanded

_IMAGES: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What PIL reads."""
_ANIMATIONS: Final = ("PNG", "WEBP", "GIF")
"""Of which several pictures are a video; those of a JPEG or TIFF are other pictures, or pages."""
_MOST: Final = 80_000_000
"""Pixels of a picture: twice as many as 8K video has; PIL warns of more."""
_HDR: Final = {16: "PQ", 18: "HLG"}
"""Transfer characteristics, by the numbers of H.273, of which 8 bits and no tone mapping show a
dull picture."""


@final
class ConditioningFile:
    """The video frames of a file. PIL reads images, PyAV everything else.

    Args:
        path: The file.
        option: What it was given for, in refusals.

    Raises:
        ConfigurationError: It is missing, or its first frame cannot be decoded.
    """

    def __init__(self, path: str, option: str = "data.start") -> None:
        self._path = expanded(path)
        self._option = option
        if self._path.is_dir():
            raise ConfigurationError(
                f"{option} is {path}, a folder; folders of frames are not read: give its last "
                f"picture, or a video (video.mp4)."
            )
        if not self._path.is_file():
            raise ConfigurationError(f"{option} is {path}, but there is no such file.")
        with self._reading():
            self._is_image = self._identify()
        self._check()
        with self._reading():
            next(self._frames())

    def count(self) -> int:
        """Return how many video frames there are. Of a video the packets are counted."""
        with self._reading():
            if self._is_image:
                with self._image() as image:
                    return int(getattr(image, "n_frames", 1)) if _moves(image) else 1
            with av.open(str(self._path)) as container:
                packets = container.demux(video=0)
                return sum(1 for packet in packets if packet.size and not packet.is_discard)

    def rate(self) -> Fraction | None:
        """Return how many frames a second a video shows; ``None``: a picture, or not said."""
        if self._is_image:
            return None
        with self._reading(), av.open(str(self._path)) as container:
            average: Fraction | None = container.streams.video[0].average_rate
            return average

    def last(self, frames: int, height: int, width: int) -> Tensor:
        """Decode the last frames, in memory that does not grow with the file.

        They are cropped around the center to the shape of the new video, and resized.

        Args:
            frames: How many.
            height: Pixels.
            width: Pixels.

        Returns:
            ``(frames, height, width, 3)`` uint8 RGB.

        Raises:
            ConfigurationError: Fewer can be decoded.
        """
        size, method = (width, height), Image.Resampling.LANCZOS
        fitted = [ImageOps.fit(frame, size, method) for frame in self._last(frames)]
        return torch.from_numpy(np.stack([np.asarray(frame) for frame in fitted]))

    def original(self, frames: int) -> Tensor:
        """Decode the first of the last frames as it is, neither cropped nor resized.

        Args:
            frames: How many frames are kept, as for ``last``.

        Returns:
            ``(height, width, 3)`` uint8 RGB, of the file's size.

        Raises:
            ConfigurationError: Fewer can be decoded.
        """
        return torch.from_numpy(np.array(self._last(frames)[0]))

    def _last(self, frames: int) -> deque[Image.Image]:
        with self._reading():
            kept = deque(self._frames(), maxlen=frames)
        if len(kept) < frames:
            raise ConfigurationError(
                f"{self._option} is {self._path}, of which {frames} video frames are to be kept, "
                f"but only {len(kept)} can be decoded; the file seems to be damaged."
            )
        return kept

    def _check(self) -> None:
        """Refuse what would be too large to decode, or shown as nobody has seen it."""
        with self._reading():
            if self._is_image:
                with self._image() as image:
                    size, transfer = image.size, 0
            else:
                with av.open(str(self._path)) as container:
                    shown = container.streams.video[0].codec_context
                    size, transfer = (shown.width, shown.height), int(shown.color_trc or 0)
        if size[0] * size[1] > _MOST:
            raise ConfigurationError(
                f"data.start is {self._path}, of {size[0]} x {size[1]} pixels, more than the "
                f"{_MOST:,} that are read; make it smaller."
            )
        if transfer in _HDR:
            raise ConfigurationError(
                f"data.start is {self._path}, an HDR video ({_HDR[transfer]}); longtake reads "
                f"those of standard range: convert it with a tone mapping first."
            )

    def _image(self) -> Image.Image:
        return Image.open(self._path, formats=_IMAGES)

    def _identify(self) -> bool:
        """Return whether PIL knows the file."""
        try:
            with self._image():
                return True
        except UnidentifiedImageError:
            return False

    def _frames(self) -> Iterator[Image.Image]:
        if self._is_image:
            with self._image() as image:
                for frame in ImageSequence.Iterator(image) if _moves(image) else (image,):
                    yield _as_shown(ImageOps.exif_transpose(frame))
        else:
            with av.open(str(self._path)) as container:
                pixel = container.streams.video[0].sample_aspect_ratio
                for picture in container.decode(video=0):
                    # Counterclockwise, as PIL turns; a viewer turns it after it has stretched it.
                    shown = _stretched(picture.to_image(), pixel)
                    yield shown.rotate(picture.rotation, expand=True)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # what a damaged file does to a decoder is hard to foresee
            raise ConfigurationError(
                f"{self._option} is {self._path}, which cannot be read as an image (PNG, JPEG, "
                f"WebP) or a video: {str(error) or type(error).__name__}."
            ) from error


def _moves(image: Image.Image) -> bool:
    """Whether the pictures of a file are a video."""
    return image.format in _ANIMATIONS


def _as_shown(image: Image.Image) -> Image.Image:
    """Return a picture in RGB as a viewer shows it.

    What is transparent stands before white. Gray of 16 bits runs from black at 0 to white at
    65,535, of floating-point numbers from 0 to 1.
    """
    if image.mode == "F":
        levels = np.asarray(image, np.float64) * 255
        return Image.fromarray(_rounded(levels)).convert("RGB")
    if image.mode.startswith("I"):
        return Image.fromarray(_rounded(np.asarray(image, np.float64) / 257)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _rounded(levels: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return levels.round().clip(0, 255).astype(np.uint8)


def _stretched(image: Image.Image, pixel: Fraction | None) -> Image.Image:
    """Return a picture with square pixels.

    Args:
        image: As it is stored.
        pixel: Width of a pixel by its height; ``None`` or 0: not known, square.
    """
    if not pixel or pixel == 1:
        return image
    width, height = image.size
    size = (round(width * pixel), height) if pixel > 1 else (width, round(height / pixel))
    return image.resize(size, Image.Resampling.LANCZOS)
