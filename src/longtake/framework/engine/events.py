"""Events that the engine emits while it makes a video.

``TaskDone``, ``BlockDone`` and ``ActionDone`` come from the strategy; the rest is emitted by the
engine. Progress displays, writers and reports are callbacks on these events, and nothing else
reaches into the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from torch import Tensor

from longtake.framework.engine.request import Request
from longtake.strategies import ActionDone, BlockDone, TaskDone


class ExitReason(StrEnum):
    """Why a request ended."""

    FINISHED = "finished"
    """All frames that were asked for are made."""
    STOPPED = "stopped"
    """The user stopped it (Ctrl-C); everything made so far is complete and playable."""
    FAILED = "failed"
    """An error ended it; the file holds what had been written until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStarted:
    """A request begins.

    Args:
        request: Which one.
        blocks: Number of blocks; ``None`` for an endless video.
        steps: Denoising steps of each block.
        tasks: Number of forwards; ``None`` for an endless video.
        video_frames: Video frames that will be made; ``None`` for an endless video.
        tasks_before: Forwards that an earlier process has done, where the request goes on; its
            frames are decoded anew.
        blocks_before: Blocks that it has finished.
    """

    request: Request
    blocks: int | None
    steps: int
    tasks: int | None
    video_frames: int | None
    tasks_before: int = 0
    blocks_before: int = 0


@dataclass(frozen=True, slots=True)
class FramesDecoded:
    """The next video frames are decoded, in the order of time.

    Args:
        frames: ``(frames, height, width, 3)`` uint8 RGB on the CPU. Not to be changed: they are
            being written meanwhile.
    """

    frames: Tensor


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """A request is over.

    Args:
        request: Which one.
        reason: Why.
    """

    request: Request
    reason: ExitReason


Event: TypeAlias = RequestStarted | TaskDone | BlockDone | ActionDone | FramesDecoded | RequestEnded
