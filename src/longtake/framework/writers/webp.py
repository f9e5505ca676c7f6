"""WebP writer: animated pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import av
from typing_extensions import override

from longtake.framework.engine.kept_video import checksum_of
from longtake.framework.engine.run_folder import commit, temporary_name
from longtake.framework.writers.base import FrameWriter, Picture, VideoShape
from longtake.framework.writers.color import yuv420p
from longtake.framework.writers.label import label_webp


@final
class WebpWriter(FrameWriter):
    """Writes an animated WebP in constant memory: each video frame is a WebP picture of its own.

    WebP's animation encoder would make smaller files of still scenes, but holds the whole
    animation in memory until the end, and merges video frames that are equal. The file has a
    temporary name until it is whole.

    Args:
        path: The file.
        video: What the video frames are like.
        quality: 0 to 100, the larger the better.
        label: XMP in the file.
    """

    def __init__(
        self, path: Path, video: VideoShape, *, quality: int = 90, label: str = ""
    ) -> None:
        super().__init__(path, video, label=label)
        self._quality = quality
        self._container: Any = None
        self._stream: Any = None

    @override
    def open(self) -> None:
        """Begin the file."""
        # loop=0: for ever.
        options = {"loop": "0", "fflags": "+bitexact"}
        self._container = av.open(
            str(temporary_name(self.path)), "w", format="webp", options=options
        )
        self._stream = self._container.add_stream(
            "libwebp", rate=self.video.fps, options={"quality": str(self._quality)}
        )
        self._stream.height, self._stream.width = self.video.file_height, self.video.file_width
        self._stream.pix_fmt = "yuv420p"

    @override
    def write_picture(self, picture: Picture) -> None:
        """Write the next video frame."""
        frame = yuv420p(picture, "ITU601")  # what WebP says it is
        frame.pts = self.frames
        self._container.mux(self._stream.encode(frame))

    @override
    def close(self) -> None:
        """Finish the file and give it its name."""
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
        if self.frames:  # without any, the muxer has made no file
            if self.label:
                label_webp(temporary_name(self.path), self.label)
            commit(temporary_name(self.path), self.path)
            self.there = self.frames
            self.checksum = checksum_of([self.path])
