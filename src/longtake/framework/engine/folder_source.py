"""Folder source: pictures of a folder that are the frames of a video, in order of number."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, final

from PIL import Image
from typing_extensions import override

from longtake.framework.engine.frame_source import FrameSource, FrameTimes, too_large
from longtake.framework.engine.picture_source import IMAGES, PictureSource

_ENDINGS: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif")
_RUN: Final = ("video.mp4", "frames")
"""What of a run's folder was meant."""


@final
class FolderSource(FrameSource):
    """Frames of a folder: its pictures, each one frame.

    Args:
        path: The folder. What begins with a dot is not looked at.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @override
    def check(self) -> str | None:
        inside = sorted(self._inside())
        for name in _RUN:
            if meant := [
                path for path in (self._path / name, self._path / "0000" / name) if path.exists()
            ]:
                return f"a run's folder; give the video itself, {meant[0]}"
        if not inside:
            return "a folder without a picture"
        for file in inside:
            if file.is_dir() or file.suffix.lower() not in _ENDINGS:
                return (
                    f"a folder in which {file.name} is no picture; a folder of frames holds "
                    f"nothing else"
                )
        sizes = {file: _size(file) for file in inside}
        first = self.files()[0]
        for file, size in sizes.items():
            if refusal := too_large(size):
                return f"a folder in which {file.name} is {refusal}"
            if size != sizes[first]:
                return (
                    f"a folder in which {file.name} has {size[0]} x {size[1]} pixels and "
                    f"{first.name} {sizes[first][0]} x {sizes[first][1]}; frames of one video have "
                    f"one size"
                )
        return None

    @override
    def count(self) -> int:
        return len(self.files())

    @override
    def times(self) -> FrameTimes | None:
        return None

    @override
    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, Image.Image]]:
        for number, file in enumerate(self.files()):
            if number in wanted:
                for _, image in PictureSource(file).read((0,)):
                    yield number, image

    def files(self) -> list[Path]:
        """Return the pictures in the order of their numbers: 2.png before 10.png."""
        return sorted(self._inside(), key=lambda file: _natural(file.name))

    def _inside(self) -> Iterator[Path]:
        return (path for path in self._path.iterdir() if not path.name.startswith("."))


def _size(file: Path) -> tuple[int, int]:
    with Image.open(file, formats=IMAGES) as image:
        return image.size


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    return tuple((text, int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d*)", name))
