"""Progress state: how far a request is."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final, final

from longtake.framework.engine.events import FramesDecoded, RequestStarted
from longtake.strategies import BlockDone, TaskDone

RECENT_TASKS: Final = 64


@final
class ProgressState:
    """Counts a request's events.

    Args:
        started: The request's first event. Totals are ``None`` for an endless video.
        clock: Gives seconds.
    """

    def __init__(
        self, started: RequestStarted, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.request = started.request.index
        self.blocks = started.blocks
        self.steps = started.steps
        self.tasks = started.tasks
        """Tasks in total."""
        self.video_frames = started.video_frames
        self.blocks_done = started.blocks_before
        self.tasks_done = started.tasks_before
        self.frames = 0
        """Video frames decoded."""
        self.first_frame_seconds: float | None = None
        self.in_flight: dict[int, int] = {}
        """Steps done of the blocks that have entered and are not finished."""
        self._clock = clock
        self._start = clock()
        self._recent = deque([self._start], maxlen=RECENT_TASKS + 1)

    @property
    def seconds(self) -> float:
        """Since the request's start; weights are loaded by then."""
        return self._clock() - self._start

    @property
    def eta(self) -> float | None:
        """Seconds that the remaining tasks take at the pace of the recent ones."""
        recent = tuple(self._recent)  # a display's thread may ask meanwhile
        if self.tasks is None or len(recent) < 2:
            return None
        return (self.tasks - self.tasks_done) * (recent[-1] - recent[0]) / (len(recent) - 1)

    def update(self, event: TaskDone | BlockDone | FramesDecoded) -> None:
        """Count an event."""
        match event:
            case TaskDone(task):
                self.tasks_done += 1
                for run in task.runs:
                    if run.advances and run.block >= 0:
                        self.in_flight[run.block] = run.step + 1
                self._recent.append(self._clock())
            case BlockDone(block=block):
                self.blocks_done += 1
                self.in_flight.pop(block, None)
            case FramesDecoded(frames):
                self.frames += len(frames)
                if self.first_frame_seconds is None:
                    self.first_frame_seconds = self.seconds
