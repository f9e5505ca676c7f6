"""GIF writer: animated pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, final

import av
from typing_extensions import override

from longtake.framework.engine.kept_video import checksum_of
from longtake.framework.engine.run_folder import commit, temporary_name
from longtake.framework.writers.base import FrameWriter, Picture, VideoShape
from longtake.framework.writers.label import label_gif


@final
class GifWriter(FrameWriter):
    """Writes an animated GIF in constant memory: each video frame has a palette of its own.

    GIF counts time in hundredths of a second, so single video frames are shown up to half of that
    too long or too short; the whole has the right length. Many viewers slow down above 50 video
    frames per second. The file has a temporary name until it is whole.

    Args:
        path: The file.
        video: What the video frames are like.
        label: A comment in the file.
    """

    def __init__(self, path: Path, video: VideoShape, *, label: str = "") -> None:
        super().__init__(path, video, label=label)
        self._time_base = 1 / Fraction(video.fps)
        self._container: Any = None
        self._stream: Any = None
        self._graph: Any = None
        self._source: Any = None
        self._sink: Any = None

    @override
    def open(self) -> None:
        """Begin the file."""
        height, width = self.video.file_height, self.video.file_width
        self._container = av.open(
            str(temporary_name(self.path)), "w", format="gif", options={"fflags": "+bitexact"}
        )
        self._stream = self._container.add_stream("gif", rate=self.video.fps)
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "pal8"
        self._graph = graph = av.filter.Graph()  # freed, it would take its filters along
        self._source = graph.add_buffer(
            width=width, height=height, format="rgb24", time_base=self._time_base
        )
        split = graph.add("split")
        palette = graph.add("palettegen", "stats_mode=single")
        colored = graph.add("paletteuse", "new=1")
        self._sink = graph.add("buffersink")
        self._source.link_to(split)
        split.link_to(colored, 0, 0)
        split.link_to(palette, 1, 0)
        palette.link_to(colored, 0, 1)
        colored.link_to(self._sink)
        graph.configure()

    @override
    def write_picture(self, picture: Picture) -> None:
        """Write the next video frame."""
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = self.frames
        frame.time_base = self._time_base
        self._source.push(frame)
        self._encode_ready()

    def _encode_ready(self) -> None:
        """Encode what has come out of the filters."""
        while True:
            try:
                frame = self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            self._container.mux(self._stream.encode(frame))

    @override
    def close(self) -> None:
        """Finish the file and give it its name."""
        try:
            self._source.push(None)
            self._encode_ready()
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
        if self.frames:  # without any, the muxer has made no file
            if self.label:
                label_gif(temporary_name(self.path), self.label)
            commit(temporary_name(self.path), self.path)
            self.there = self.frames
            self.checksum = checksum_of([self.path])
