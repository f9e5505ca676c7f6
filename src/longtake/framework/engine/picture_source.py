"""Picture source: an image, or the pictures of an animation, read with PIL."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from PIL import Image, ImageCms, ImageOps
from typing_extensions import override

from longtake.framework.engine.frame_source import FrameSource, FrameTimes, before_white, too_large

IMAGES: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What PIL reads."""
_ANIMATIONS: Final = ("PNG", "WEBP", "GIF", "AVIF")
"""Of which several pictures are a video; those of a JPEG or TIFF are other pictures, or pages."""
_UNSAID: Final = Fraction(1, 10)
"""Seconds of a picture that says none: as browsers show it."""


@final
class PictureSource(FrameSource):
    """Pictures of a file that PIL knows.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @override
    def check(self) -> str | None:
        with self._open() as image:
            return too_large(image.size)

    @override
    def count(self) -> int:
        with self._open() as image:
            return _pictures(image)

    @override
    def times(self) -> FrameTimes | None:
        with self._open() as image:
            count = _pictures(image)
            if count == 1:
                return None
            now, found, said = Fraction(0), [], False
            for number in range(count):
                image.seek(number)
                image.load()  # WebP and AVIF know the duration then
                found.append(now)
                # GIFs of 0 or 10 ms a picture are older than screens that can show them
                seconds = Fraction(image.info.get("duration", 0)).limit_denominator(1000) / 1000
                said |= seconds > 0
                now += seconds if seconds > Fraction(1, 100) else _UNSAID
            return tuple(found) if said else None

    @override
    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, Image.Image]]:
        with self._open() as image:
            for number in range(_pictures(image)):
                if number:
                    image.seek(number)
                if number in wanted:
                    yield number, _as_shown(ImageOps.exif_transpose(image))

    def _open(self) -> Image.Image:
        return Image.open(self._path, formats=IMAGES)


def _pictures(image: Image.Image) -> int:
    return int(getattr(image, "n_frames", 1)) if image.format in _ANIMATIONS else 1


def _as_shown(image: Image.Image) -> Image.Image:
    """Return a picture in RGB as a viewer shows it.

    What is transparent stands before white. Gray of 16 bits runs from black at 0 to white at
    65,535, of floating-point numbers from 0 to 1. A color profile is applied.
    """
    if image.mode == "F":
        levels = np.asarray(image, np.float64) * 255
        return Image.fromarray(_rounded(levels)).convert("RGB")
    if image.mode.startswith("I"):
        return Image.fromarray(_rounded(np.asarray(image, np.float64) / 257)).convert("RGB")
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return before_white(_in_srgb(image.convert("RGB"), profile), image.getchannel("A"))
    return _in_srgb(image, profile)


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a picture in RGB, of the colors that its profile (ICC) says."""
    if not profile:
        return image.convert("RGB")
    try:
        return ImageCms.profileToProfile(  # type: ignore[return-value]  # None is for in place
            image if image.mode in ("RGB", "CMYK", "L") else image.convert("RGB"),
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image.convert("RGB")  # broken, or of another mode: viewers show it without


def _rounded(levels: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    numbers: np.ndarray[Any, np.dtype[np.float64]] = np.nan_to_num(levels)
    return numbers.round().clip(0, 255).astype(np.uint8)
