"""Videos reported one after another, though the next one is denoised while the last is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, final

from longtake.framework.engine.decoding import Decoding
from longtake.framework.engine.events import Event, ExitReason, RequestEnded
from longtake.framework.engine.request import Request
from longtake.strategies import ActionDone


class _Denoised(NamedTuple):
    """A video whose blocks are all there, and whose frames are not."""

    request: Request
    reason: ExitReason
    decoding: Decoding


@final
class Videos:
    """Puts the events of videos in order: whoever listens hears of one video at a time.

    While a video is being decoded elsewhere, what happens to the next one is kept until the first
    one has ended. At most two videos are under way, and a decode rank that lags makes the next
    one wait, so what is kept is bounded.
    """

    def __init__(self) -> None:
        self._before: _Denoised | None = None
        self._kept: list[Event] = []

    def emit(self, event: Event) -> Iterator[Event]:
        """Yield an event of the current video, or keep it while the one before has not ended.

        What ranks do is reported at once: it belongs to no video's output.
        """
        if self._before is None or isinstance(event, ActionDone):
            yield event
        else:
            self._kept.append(event)

    def decoded(self, current: Decoding, *, patient: bool = False) -> Iterator[Event]:
        """Yield what has been decoded, of the video before if that has not ended.

        Args:
            current: Of the current video.
            patient: Whether to wait a moment for it.
        """
        if self._before is None:
            yield from current.some(patient=patient)
            return
        yield from self._before.decoding.some(patient=patient)
        if self._before.decoding.is_done:
            yield from self._end(self._before)

    def leave(self, request: Request, reason: ExitReason, decoding: Decoding) -> Iterator[Event]:
        """Take the current video, all denoised, as the one before; yield what is left of that."""
        yield from self.finish()
        self._before = _Denoised(request, reason, decoding)

    def finish(self) -> Iterator[Event]:
        """Yield what is left of the video before; waits until it is decoded."""
        while self._before is not None:
            yield from self.decoded(self._before.decoding, patient=True)

    def _end(self, video: _Denoised) -> Iterator[Event]:
        yield RequestEnded(video.request, video.reason)
        self._before = None
        yield from self._kept
        self._kept.clear()
