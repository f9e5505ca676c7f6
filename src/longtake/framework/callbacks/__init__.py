"""Callbacks: what happens with a video while it is made."""

from longtake.framework.callbacks.base import LongtakeCallback, VideoHooks, dispatch
from longtake.framework.callbacks.latent_writer import LatentWriter
from longtake.framework.callbacks.progress import ProgressKind, progress_callback
from longtake.framework.callbacks.progress_display import ProgressDisplay
from longtake.framework.callbacks.progress_plain import PlainProgress
from longtake.framework.callbacks.progress_rich import RichProgress
from longtake.framework.callbacks.progress_state import ProgressState
from longtake.framework.callbacks.report import ReportWriter
from longtake.framework.callbacks.timeline import TimelineWriter
from longtake.framework.callbacks.video_writer import VideoWriter

__all__ = [
    "LatentWriter",
    "LongtakeCallback",
    "PlainProgress",
    "ProgressDisplay",
    "ProgressKind",
    "ProgressState",
    "ReportWriter",
    "RichProgress",
    "TimelineWriter",
    "VideoHooks",
    "VideoWriter",
    "dispatch",
    "progress_callback",
]
