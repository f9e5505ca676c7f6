"""Writers: video frames in, one file out, as a stream, in constant memory."""

from longtake.framework.writers.base import FrameWriter, Picture, VideoShape
from longtake.framework.writers.formats import VideoFormat, frame_writer
from longtake.framework.writers.gif import GifWriter
from longtake.framework.writers.mp4 import CRF, Mp4Writer
from longtake.framework.writers.png import PngWriter
from longtake.framework.writers.webp import WebpWriter

__all__ = [
    "CRF",
    "FrameWriter",
    "GifWriter",
    "Mp4Writer",
    "Picture",
    "PngWriter",
    "VideoFormat",
    "VideoShape",
    "WebpWriter",
    "frame_writer",
]
