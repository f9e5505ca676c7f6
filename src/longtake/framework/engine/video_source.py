"""Video source: the frames of a video, read with PyAV, with the times that the container gives."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

import av
from PIL import Image
from typing_extensions import override

from longtake.framework.engine.frame_source import FrameSource, FrameTimes, before_white, too_large

_HDR: Final = {16: "PQ", 18: "HLG"}
"""Transfer characteristics, by the numbers of H.273, of which 8 bits and no tone mapping show a
dull picture."""
_UNTAGGED: Final = 2
"""The matrix of H.273 that says nothing."""
_BT709: Final = 1
_HD: Final = (1280, 577)
"""Width and height from which on players take an untagged video for BT.709, else for BT.601."""


@dataclass(frozen=True, slots=True)
class _Packets:
    """What a container says of its frames, without those that are not to be shown.

    Args:
        stamps: Their time stamps, in the order in which they are stored.
        base: Seconds of a unit of them.
        rate: Frames per second on average.
    """

    stamps: list[int | None]
    base: Fraction
    rate: Fraction | None


@final
class VideoSource(FrameSource):
    """Frames of the first video of a file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @override
    def check(self) -> str | None:
        with av.open(str(self._path)) as container:
            if not len(container.streams):
                return "in which nothing is found: it seems to be cut off"
            if not container.streams.video:
                return "which holds no video"
            stream = container.streams.video[0]
            shown, pixel = stream.codec_context, stream.sample_aspect_ratio
            if refusal := too_large(_square((shown.width, shown.height), pixel)):
                return refusal
            transfer = int(shown.color_trc or 0)
        if transfer in _HDR:
            return (
                f"an HDR video ({_HDR[transfer]}); longtake reads those of standard range: convert "
                f"it with a tone mapping first"
            )
        return None

    @override
    def count(self) -> int:
        return len(self._packets.stamps)

    @override
    def times(self) -> FrameTimes | None:
        stamps, base, rate = self._packets.stamps, self._packets.base, self._packets.rate
        known = [stamp for stamp in stamps if stamp is not None]
        if len(set(known)) == len(stamps):
            return tuple(stamp * base for stamp in sorted(known))
        return None if not rate else tuple(Fraction(n) / rate for n in range(len(stamps)))

    @override
    def read(self, wanted: Collection[int]) -> Iterator[tuple[int, Image.Image]]:
        stamps = self._packets.stamps
        known = sorted({stamp for stamp in stamps if stamp is not None})
        numbers = {stamp: number for number, stamp in enumerate(known)}
        if len(known) != len(stamps):
            numbers = {}  # by their places
        with av.open(str(self._path)) as container:
            pixel = container.streams.video[0].sample_aspect_ratio
            for place, frame in enumerate(container.decode(video=0)):
                number = place if frame.pts is None else numbers.get(frame.pts, place)
                if number not in wanted:
                    continue
                # Counterclockwise, as PIL turns; a viewer turns it after it has stretched it.
                shown = _stretched(_rgb(frame), pixel)
                yield number, shown.rotate(frame.rotation, expand=True)

    @cached_property
    def _packets(self) -> _Packets:
        """Of packets it is read when frames are shown, once: that takes no decoding."""
        with av.open(str(self._path)) as container:
            stream = container.streams.video[0]
            packets = container.demux(video=0)
            found = [packet.pts for packet in packets if packet.size and not packet.is_discard]
            rate: Fraction | None = stream.average_rate
            return _Packets(found, stream.time_base or Fraction(1), rate)


def _rgb(frame: Any) -> Image.Image:
    """Return a frame in RGB: by its own matrix and range, or by those that players assume.

    What is transparent stands before white.
    """
    hd = frame.width >= _HD[0] or frame.height >= _HD[1]
    matrix = _BT709 if frame.colorspace == _UNTAGGED and hd else None
    if any(component.is_alpha for component in frame.format.components):
        whole = Image.fromarray(
            frame.reformat(format="rgba", src_colorspace=matrix).to_ndarray(), "RGBA"
        )
        return before_white(whole.convert("RGB"), whole.getchannel("A"))
    image: Image.Image = frame.reformat(format="rgb24", src_colorspace=matrix).to_image()
    return image


def _square(size: tuple[int, int], pixel: Fraction | None) -> tuple[int, int]:
    """Return the size of a picture with square pixels.

    Args:
        size: Width and height as stored.
        pixel: Width of a pixel by its height; ``None`` or 0: not known, square.
    """
    width, height = size
    if not pixel or pixel == 1:
        return size
    return (round(width * pixel), height) if pixel > 1 else (width, round(height / pixel))


def _stretched(image: Image.Image, pixel: Fraction | None) -> Image.Image:
    size = _square(image.size, pixel)
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)
