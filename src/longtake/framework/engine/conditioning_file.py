"""Conditioning file: an image, or a video whose end is kept, that a new video is to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
import torch
from av.error import FFmpegError
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.framework.engine.folder_source import FolderSource
from longtake.framework.engine.frame_source import FrameSource, picks, rate_of
from longtake.framework.engine.picture_source import IMAGES, PictureSource
from longtake.framework.engine.read_frames import ReadFrames
from longtake.framework.engine.video_source import VideoSource
from longtake.paths import expanded

_HEIF = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1", b"ftyphevc")
"""How the files of phones begin, of which a video decoder would show one tile."""


@final
class ConditioningFile:
    """The video frames of a file or folder, as a viewer shows them.

    Args:
        path: The file, or a folder of frames.
        option: What it was given for, in refusals.
        fps: Video frames per second that a video is to be taken at: its frames are picked by their
            times. ``None``: one by one. A folder's, which have no times, always are.

    Raises:
        ConfigurationError: It is missing, or its first frame cannot be decoded.
    """

    def __init__(self, path: str, option: str = "data.start", fps: Fraction | None = None) -> None:
        self._path = expanded(path)
        self._option = option
        self._fps = fps
        if not self._path.exists():
            raise ConfigurationError(f"{option} is {path}, but there is no such file.")
        if self._path.is_file() and not self._path.stat().st_size:
            raise ConfigurationError(f"{option} is {path}, which is an empty file.")
        with self._reading():
            self._source = _source_of(self._path)
            refusal = self._source.check()
        if refusal is not None:
            raise ConfigurationError(f"{option} is {self._path}, {refusal}.")
        with self._reading():
            next(iter(self._source.read((0,))))

    @cached_property
    def _picked(self) -> Sequence[int]:
        """The pictures that are its video frames, by number; some of them several times."""
        with self._reading():
            times = None if self._fps is None else self._source.times()
            if times is None or self._fps is None:
                return range(self._source.count())
            return picks(times, self._fps)

    def count(self) -> int:
        """Return how many video frames there are."""
        return len(self._picked)

    def rate(self) -> Fraction | None:
        """Return how many frames a second a video shows; ``None``: a picture, or not said."""
        with self._reading():
            times = self._source.times()
        return None if times is None else rate_of(times)

    def frames(self, count: int, height: int, width: int) -> ReadFrames:
        """Return the last frames, to be decoded as they are asked for.

        They are cropped around the center to the shape of the new video, and resized.

        Args:
            count: How many.
            height: Pixels.
            width: Pixels.
        """
        return ReadFrames(self._picked[-count:], self._read, height, width)

    def last(self, count: int, height: int, width: int) -> Tensor:
        """Decode the last frames at once, as ``frames`` has them.

        Returns:
            ``(count, height, width, 3)`` uint8 RGB.

        Raises:
            ConfigurationError: Fewer can be decoded.
        """
        return self.frames(count, height, width)[:]

    def original(self, frames: int) -> Tensor:
        """Decode the first of the last frames as it is, neither cropped nor resized.

        Args:
            frames: How many frames are kept, as for ``last``.

        Returns:
            ``(height, width, 3)`` uint8 RGB, of the file's size.

        Raises:
            ConfigurationError: It cannot be decoded.
        """
        ((_, image),) = self._read(self._picked[-frames:][:1])
        return torch.from_numpy(np.array(image))

    def _read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        """Decode pictures by number, each once."""
        missing = set(wanted)
        with self._reading():
            for number, image in self._source.read(missing):
                yield number, image
                missing.discard(number)
        if missing:
            raise ConfigurationError(
                f"{self._option} is {self._path}, of which {len(set(wanted))} video frames are to "
                f"be kept, but only {len(set(wanted)) - len(missing)} can be decoded; the file "
                f"seems to be damaged."
            )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # what a damaged file does to a decoder is hard to foresee
            raise ConfigurationError(
                f"{self._option} is {self._path}, which cannot be read as an image (PNG, JPEG, "
                f"WebP) or a video: {_said(error)}."
            ) from error


def _said(error: Exception) -> str:
    """Return what a decoder says, without the numbers and names that are its own."""
    said = error.strerror if isinstance(error, FFmpegError) else str(error)
    return said or type(error).__name__


def _source_of(path: Path) -> FrameSource:
    """Return what reads a path: PIL what it knows, PyAV every other file."""
    if path.is_dir():
        return FolderSource(path)
    with path.open("rb") as file:
        if file.read(12)[4:] in _HEIF:
            raise ValueError("HEIC is not read; convert it to JPEG or PNG")
    try:
        with Image.open(path, formats=IMAGES):
            return PictureSource(path)
    except UnidentifiedImageError:
        return VideoSource(path)
