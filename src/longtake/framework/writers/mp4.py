"""MP4 writer: H.264 video, playable while it grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, final

import av
import numpy as np
from typing_extensions import override

from longtake.framework.writers.base import FrameWriter, Picture, VideoShape
from longtake.framework.writers.color import yuv420p

# A fragment holds its own index, so whatever has reached the disk plays. `bitexact` leaves out
# the muxer's version.
CONTAINER: Final = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof",
    "flush_packets": "1",
    "fflags": "+bitexact",
}
# A constant number of threads: the bytes depend on it, and must not depend on the machine.
THREADS: Final = 4
# Slices instead of parallel frames, and no look-ahead: the encoder holds back no more than a
# video frame or two, and its memory does not depend on the length.
LOW_DELAY: Final = f"threads={THREADS}:sliced-threads=1:sync-lookahead=0:scenecut=0:mbtree=0"
BT709: Final = 1
LIMITED_RANGE: Final = 1
CRF: Final = 18
"""Quality of H.264 that looks like the original."""


@final
class Mp4Writer(FrameWriter):
    """Writes H.264 in a fragmented MP4, in constant memory.

    A fragment is one second. Each is on the disk, playable, as soon as the next one begins, so a
    killed run loses its last second or so and nothing else. Odd heights and widths, which H.264's
    4:2:0 color cannot have, are padded by repeating the last row or column.

    Args:
        path: The file.
        video: What the video frames are like.
        crf: Quality: 1 is the best, 51 the worst, 18 looks like the original. 0 is taken for 1:
            H.264's lossless profile, which x264 would choose, plays in few players.
        preset: x264's preset: faster ones give larger files.
    """

    def __init__(
        self, path: Path, video: VideoShape, *, crf: int = CRF, preset: str = "medium"
    ) -> None:
        super().__init__(path, video)
        self._crf = crf
        self._preset = preset
        self._container: Any = None
        self._stream: Any = None

    @override
    def open(self) -> None:
        """Begin the file."""
        video = self.video
        options = {
            "crf": str(max(1, self._crf)),
            "preset": self._preset,
            "bf": "0",  # reordered frames would start the file with an edit list
            "rc-lookahead": "0",
            "x264-params": LOW_DELAY,
        }
        self._container = av.open(str(self.path), "w", format="mp4", options=CONTAINER)
        self._stream = self._container.add_stream("libx264", rate=video.fps, options=options)
        self._stream.height = video.file_height + video.file_height % 2
        self._stream.width = video.file_width + video.file_width % 2
        self._stream.pix_fmt = "yuv420p"
        codec = self._stream.codec_context
        codec.gop_size = video.fps
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED_RANGE
        self._container.start_encoding()

    @override
    def write_picture(self, picture: Picture) -> None:
        """Write the next video frame."""
        height, width = picture.shape[:2]
        if height % 2 or width % 2:
            picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = yuv420p(picture, "ITU709")
        frame.pts = self.frames
        self._container.mux(self._stream.encode(frame))

    @override
    def close(self) -> None:
        """Write what the encoder holds back, and the end of the file."""
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
