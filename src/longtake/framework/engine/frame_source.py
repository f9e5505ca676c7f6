"""Frame source contract: pictures of an image, a video or a folder, with the times they have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Final

from PIL import Image

FrameTimes = tuple[Fraction, ...]
"""When each picture is shown, in seconds, in the order of time."""
MOST_PIXELS: Final = 80_000_000
"""Of a picture: twice as many as 8K video has; PIL warns of more."""


class FrameSource(ABC):
    """Pictures as a viewer shows them. No picture is kept between calls."""

    @abstractmethod
    def check(self) -> str | None:
        """Return why it is not read, for the end of a sentence; ``None``: it is.

        Reads headers only: what would be too large is never decoded.
        """

    @abstractmethod
    def count(self) -> int:
        """Return how many pictures there are."""

    @abstractmethod
    def times(self) -> FrameTimes | None:
        """Return when each is shown; ``None`` where nothing says it."""

    @abstractmethod
    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, Image.Image]]:
        """Decode pictures by their numbers, in RGB, one after another.

        Args:
            wanted: Their numbers in the order of time, from 0.
        """


def before_white(color: Image.Image, alpha: Image.Image) -> Image.Image:
    """Return a picture in RGB as it looks before white: what is transparent stays hidden."""
    shown = Image.new("RGB", color.size, "white")
    shown.paste(color, mask=alpha)
    return shown


def too_large(size: tuple[int, int]) -> str | None:
    """Return why a picture is not decoded; ``None``: it is."""
    width, height = size
    if width * height <= MOST_PIXELS:
        return None
    most = f"{MOST_PIXELS:,}"
    return f"of {width} x {height} pixels, more than the {most} that are read; make it smaller"


def rate_of(times: FrameTimes) -> Fraction | None:
    """Return how many pictures a second are shown on average; ``None`` for fewer than two."""
    return (len(times) - 1) / (times[-1] - times[0]) if times and times[-1] > times[0] else None


def picks(times: FrameTimes, fps: Fraction) -> list[int]:
    """Return which pictures a video of another frame rate shows, the last one last.

    At each moment, counted back from the last picture, the one that a viewer sees then. A picture
    is taken to begin half its distance to the one before early (but no more than half a new
    frame's), so that times which are rounded, and rates that are nearly equal, skip none.

    Args:
        times: Of the pictures.
        fps: Video frames per second that are wanted.

    Returns:
        Numbers of pictures; some of them several times where the video is slower than ``fps``.
    """
    early = [after - min(after - before, 1 / fps) / 2 for before, after in pairwise(times)]
    begins: Sequence[Fraction] = [times[0], *early]
    moments = int((times[-1] - begins[0]) * fps + Fraction(1, 2)) + 1
    found = []
    for back in range(moments):
        found.append(max(0, bisect_right(begins, times[-1] - back / fps) - 1))
    return found[::-1]
