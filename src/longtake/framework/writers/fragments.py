"""Fragments of an MP4 file, each of an encoder session of its own: a function of its frames."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, final

import av

from longtake.framework.writers.base import Picture, VideoShape
from longtake.framework.writers.color import yuv420p

# One fragment per session, with its own index; `bitexact` leaves out the muxer's version.
CONTAINER: Final = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof+skip_trailer",
    "fflags": "+bitexact",
}
# A constant number of threads: the bytes depend on it, and must not depend on the machine.
THREADS: Final = 4
# Slices instead of parallel frames, and no look-ahead: the encoder holds back no more than a
# video frame or two, and its memory does not depend on the length.
LOW_DELAY: Final = f"threads={THREADS}:sliced-threads=1:sync-lookahead=0:scenecut=0:mbtree=0"
BT709: Final = 1
LIMITED_RANGE: Final = 1
_BOX: Final = struct.Struct(">I4s")
_SEQUENCE: Final = 12
"""Where the number of a fragment is in its box ``mfhd``."""
_TIME: Final = 12
"""Where the time of a fragment is in its box ``tfdt``, of version 1."""


@final
class FragmentEncoder:
    """Turns the video frames of a fragment into H.264 in MP4.

    Args:
        video: What the video frames are like.
        crf: Quality: 1 is the best, 51 the worst; 0 is taken for 1.
        preset: x264's preset.
        label: The file's comment; "": none.
    """

    def __init__(self, video: VideoShape, crf: int, preset: str, label: str = "") -> None:
        self._video = video
        self._label = label
        self._options = {
            "crf": str(max(1, crf)),
            "preset": preset,
            "bf": "0",  # reordered frames would start the file with an edit list
            "rc-lookahead": "0",
            "x264-params": LOW_DELAY,
        }

    def encode(self, pictures: Sequence[Picture], number: int, first: int) -> tuple[bytes, bytes]:
        """Return the header of a file, and a fragment of it.

        Args:
            pictures: At least one, of even height and width.
            number: Of the fragment, from 0.
            first: Number of its first video frame.
        """
        file = io.BytesIO()
        with av.open(file, "w", format="mp4", options=CONTAINER) as container:
            if self._label:
                container.metadata["comment"] = self._label
            stream = self._stream(container)
            for index, picture in enumerate(pictures):
                frame = yuv420p(picture, "ITU709")
                frame.pts, frame.duration = index, 1
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            ticks = 1 / (stream.time_base * self._video.fps)
        whole = bytearray(file.getvalue())
        start = next(at for kind, at, _ in _boxes(whole) if kind == b"moof")
        fragment = whole[start:]
        _place(fragment, number + 1, int(first * ticks))
        return bytes(whole[:start]), bytes(fragment)

    def _stream(self, container: Any) -> Any:
        video = self._video
        stream = container.add_stream("libx264", rate=video.fps, options=self._options)
        stream.height = video.file_height + video.file_height % 2
        stream.width = video.file_width + video.file_width % 2
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.gop_size = round(video.fps)
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED_RANGE
        container.start_encoding()
        return stream


def _boxes(
    data: bytearray, start: int = 0, stop: int | None = None
) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, the start and the end of each box."""
    while start < (len(data) if stop is None else stop):
        size, kind = _BOX.unpack_from(data, start)
        yield kind, start, start + size
        start += size


def _place(fragment: bytearray, sequence: int, time: int) -> None:
    """Say where in a file a fragment stands, which was encoded as the first of its own."""
    moof = next((start, stop) for kind, start, stop in _boxes(fragment) if kind == b"moof")
    for kind, start, stop in _boxes(fragment, moof[0] + _BOX.size, moof[1]):
        if kind == b"mfhd":
            struct.pack_into(">I", fragment, start + _SEQUENCE, sequence)
        elif kind == b"traf":
            for inner, at, _ in _boxes(fragment, start + _BOX.size, stop):
                if inner == b"tfdt":
                    assert fragment[at + _BOX.size] == 1, "the time has 64 bits"
                    struct.pack_into(">Q", fragment, at + _TIME, time)
