"""MP4 writer: H.264 video, playable while it grows."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Final, final

import numpy as np
from typing_extensions import override

from longtake.framework.engine.kept_video import KeptVideo
from longtake.framework.writers.base import FrameWriter, Picture, VideoShape
from longtake.framework.writers.fragments import FragmentEncoder

CRF: Final = 18
"""Quality of H.264 that looks like the original."""


@final
class Mp4Writer(FrameWriter):
    """Writes H.264 in a fragmented MP4, in constant memory.

    A fragment is one second, encoded by itself: its bytes are a function of its video frames. So a
    file that was left half-way is gone on with by encoding the video anew: what is there and equal
    stays, what is torn or changed is replaced. Odd heights and widths, which H.264's 4:2:0 color
    cannot have, are padded by repeating the last row or column.

    Args:
        path: The file.
        video: What the video frames are like.
        crf: Quality: 1 is the best, 51 the worst, 18 looks like the original. 0 is taken for 1:
            H.264's lossless profile, which x264 would choose, plays in few players.
        preset: x264's preset: faster ones give larger files.
        label: The file's comment.
        goes_on: Whether a file that is there is gone on with.
        kept: What stays of a file that grows; the first video frame that is written comes after it.
    """

    def __init__(
        self,
        path: Path,
        video: VideoShape,
        *,
        crf: int = CRF,
        preset: str = "medium",
        label: str = "",
        goes_on: bool = False,
        kept: KeptVideo | None = None,
    ) -> None:
        super().__init__(path, video, label=label, first=0 if kept is None else kept.frames)
        self._encoder = FragmentEncoder(video, crf, preset, label)
        self._goes_on = goes_on or kept is not None
        self._kept = kept
        self._file = -1
        self._stop = 0 if kept is None else kept.bytes
        self._number = 0 if kept is None else kept.fragments
        self._begins = self.frames
        self._pictures: list[Picture] = []
        self._flushed = 0
        self._digest = hashlib.blake2b()

    @override
    def open(self) -> None:
        """Begin the file, or open the one that is gone on with.

        Raises:
            OSError: What was to stay of it is not there.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if self._goes_on else os.O_TRUNC)
        self._file = os.open(self.path, flags, 0o644)
        if self._kept is None:
            return
        digest = self._kept.digest(self._file)
        if digest is None:
            os.close(self._file)
            raise OSError(errno.EIO, f"{self.path.name} is not any more what is to grow")
        self._digest = digest

    @override
    def write_picture(self, picture: Picture) -> None:
        """Write the next video frame: a fragment, when it is complete."""
        height, width = picture.shape[:2]
        if height % 2 or width % 2:
            picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._pictures.append(picture.copy())
        if len(self._pictures) == round(self.video.fps):
            self._finish_fragment()
            self._number, self._begins = self._number + 1, self._begins + len(self._pictures)
            self._pictures, self._flushed = [], 0

    @override
    def flush(self) -> None:
        """Write the video frames of a fragment that is not complete; it is written again later."""
        if len(self._pictures) == self._flushed:
            return
        fragment = self._fragment()
        # Where an earlier process has come further, what it wrote plays.
        if os.fstat(self._file).st_size <= self._stop + len(fragment):
            self._put(fragment)
            self._flushed = len(self._pictures)
        self.there = self._begins + len(self._pictures)

    @override
    def abandon(self) -> None:
        """Leave the file as it is, with all video frames so far: it may be gone on with."""
        try:
            self.flush()
        finally:
            os.close(self._file)

    @override
    def close(self) -> None:
        """Write the last fragment, and cut off what an earlier file held behind it."""
        try:
            if self._pictures:
                self._finish_fragment()
            os.ftruncate(self._file, self._stop)
            os.fsync(self._file)
            self._check()
        finally:
            os.close(self._file)

    def _finish_fragment(self) -> None:
        fragment = self._fragment()
        self._digest.update(fragment)
        self._stop += self._put(fragment)
        self.there = self._begins + len(self._pictures)

    def _check(self) -> None:
        """Refuse to call a file finished that somebody has removed, replaced or changed."""
        try:
            same = os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except FileNotFoundError:
            same = False
        if not same:
            raise OSError(errno.ENOENT, f"{self.path.name} was removed or replaced meanwhile")
        with self.path.open("rb") as file:
            if hashlib.file_digest(file, "blake2b").digest() != self._digest.digest():
                raise OSError(errno.EIO, f"{self.path.name} was changed meanwhile")
        self.checksum = self._digest.hexdigest()

    def _fragment(self) -> bytes:
        """Return what has not been written: the header as well, if nothing has."""
        header, fragment = self._encoder.encode(self._pictures, self._number, self._begins)
        return header + fragment if self._number == 0 else fragment

    def _put(self, data: bytes) -> int:
        """Have these bytes in the file, behind what is finished; return how many they are."""
        if not self._goes_on or os.pread(self._file, len(data), self._stop) != data:
            view = memoryview(data)
            while view:
                view = view[os.pwrite(self._file, view, self._stop + len(data) - len(view)) :]
        return len(data)
