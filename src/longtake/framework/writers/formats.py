"""Formats: the writers by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from longtake.framework.engine.kept_video import KeptVideo
from longtake.framework.writers.base import FrameWriter, VideoShape
from longtake.framework.writers.gif import GifWriter
from longtake.framework.writers.mp4 import CRF, Mp4Writer
from longtake.framework.writers.png import PngWriter, picture_name
from longtake.framework.writers.webp import WebpWriter

VideoFormat: TypeAlias = Literal["mp4", "gif", "webp", "png"]


def frame_writer(
    format: VideoFormat,
    folder: Path,
    video: VideoShape,
    *,
    crf: int = CRF,
    label: str = "",
    goes_on: bool = False,
    kept: KeptVideo | None = None,
) -> FrameWriter:
    """Return the writer of a format; it is not open yet.

    Args:
        format: ``mp4``, ``gif`` and ``webp`` write ``video.<format>``, ``png`` writes ``frames/``.
        folder: Of the request.
        video: What the video frames are like.
        crf: Quality of ``mp4``.
        label: What the file says of itself; "": nothing.
        goes_on: Whether a file that is there is gone on with, by ``mp4``; others begin anew.
        kept: What stays of a video that grows: of ``mp4`` or ``png``.
    """
    match format:
        case "mp4":
            return Mp4Writer(
                folder / "video.mp4", video, crf=crf, label=label, goes_on=goes_on, kept=kept
            )
        case "gif":
            return GifWriter(folder / "video.gif", video, label=label)
        case "webp":
            return WebpWriter(folder / "video.webp", video, label=label)
        case "png":
            return PngWriter(folder / "frames", video, label=label, kept=kept)


def kept_video(format: VideoFormat, folder: Path, frames: int) -> KeptVideo | None:
    """Return what stays of a finished video that is to grow; ``None``: it is not there, or changed.

    Args:
        format: ``mp4`` or ``png``.
        folder: Of the request.
        frames: Video frames that are in it.
    """
    if format == "mp4":
        kept = KeptVideo.of(folder / "video.mp4")
        return kept if kept is not None and kept.frames == frames else None
    return KeptVideo.of_pictures(
        [folder / "frames" / picture_name(number) for number in range(frames)]
    )
