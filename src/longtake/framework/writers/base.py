"""Writer contract: video frames in, one file (or folder) out, as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longtake.framework.engine.frame_rate import FrameRate

Picture: TypeAlias = NDArray[np.uint8]
"""One video frame ``(height, width, 3)``, RGB, contiguous."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoShape:
    """What the video frames are like.

    Args:
        height: Pixels.
        width: Pixels.
        fps: Video frames per second.
        zoom: Each pixel becomes ``zoom x zoom`` pixels in the file.
    """

    height: int
    width: int
    fps: FrameRate
    zoom: int = 1

    @property
    def file_height(self) -> int:
        """Pixels in the file."""
        return self.height * self.zoom

    @property
    def file_width(self) -> int:
        """Pixels in the file."""
        return self.width * self.zoom


class FrameWriter(ABC):
    """Writes the video frames of one video, one at a time, in the order of time.

    Use it as a context manager, or call ``open`` before the first ``write`` and ``close`` at the
    end. Nothing touches the disk before ``open``. The same frames give the same bytes.

    Args:
        path: The file, or the folder, to write.
        video: What the video frames are like.
        label: What the file says of itself, where the format has room for it; "": nothing.
        first: Video frames that are there already, of a video that grows.
    """

    def __init__(self, path: Path, video: VideoShape, *, label: str = "", first: int = 0) -> None:
        self.path = path
        self.label = label
        self.video = video
        self.frames = first
        """Video frames that have been written so far, with those that were there."""
        self.there = first
        """Those that whoever looks finds; set by each format when they are."""
        self.checksum: str | None = None
        """Of all that is there, once it is finished; see ``checksum_of``."""

    @abstractmethod
    def open(self) -> None:
        """Begin the file."""

    @abstractmethod
    def write_picture(self, picture: Picture) -> None:
        """Write the next video frame, number ``self.frames``.

        Args:
            picture: Zoomed already. Valid during the call only.
        """

    def flush(self) -> None:  # noqa: B027 - an option, not a duty
        """Have the file hold all video frames written so far, if the format can grow."""

    @abstractmethod
    def close(self) -> None:
        """Write what is held back, and finish the file. Called once."""

    def abandon(self) -> None:
        """End the file where an error has come: by default as ``close``. Called in its place."""
        self.close()

    @final
    def write(self, frames: Tensor) -> None:
        """Write the next video frames.

        Args:
            frames: ``(frames, height, width, 3)`` uint8 RGB on the CPU.

        Raises:
            ValueError: They are not that.
        """
        expected = (self.video.height, self.video.width, 3)
        if frames.dtype != torch.uint8 or frames.ndim != 4 or tuple(frames.shape[1:]) != expected:
            raise ValueError(
                f"video frames are {frames.dtype} {tuple(frames.shape)}, not torch.uint8 "
                f"(frames, {', '.join(map(str, expected))})"
            )
        zoom = self.video.zoom
        for frame in frames.unbind():
            # Nearest neighbor: exact in every format, and a small picture stays what it is.
            if zoom > 1:
                frame = frame.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
            self.write_picture(frame.contiguous().numpy())
            self.frames += 1

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
