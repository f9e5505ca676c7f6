"""Prompt schedule of a request: where prompts change, and their conditions, made once each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, final

from longtake.framework.engine.frame_rate import FrameRate
from longtake.framework.engine.request import Request
from longtake.models import Compression
from longtake.task import FrameRange


def prompt_changes(request: Request, compression: Compression) -> tuple[int, ...]:
    """Return the latent frames at which a request's prompt changes, in the order of time.

    A block that begins at such a frame or later has the new prompt, one that begins before it the
    old one. Where several prompts begin inside one latent frame, the last of them counts; the same
    text again is no change.

    Args:
        request: Whose prompts.
        compression: Of the VAE.

    Returns:
        Latent frames, from 1 on, of which a finite video may have fewer; none of them twice.
    """
    changes: list[int] = []
    text = request.prompt_at(0.0)
    for prompt in request.prompts[1:]:
        frame = _first_frame(prompt.at, request.fps, compression)
        after = request.prompt_at(compression.start_second(frame, request.fps))
        if after != text:
            changes.append(frame)
        text = after
    return tuple(changes)


def _first_frame(seconds: float, fps: FrameRate, compression: Compression) -> int:
    """Return the first latent frame that begins at a time or after it."""
    most = int(seconds * fps / compression.temporal) + 3
    return bisect_left(range(most), seconds, key=lambda n: compression.start_second(n, fps))


@final
class PromptSchedule:
    """Gives each block the condition of the prompt that holds at the block's first video frame.

    A prompt's condition (cross-attention's keys and values of every layer) is made when its first
    block enters and dropped when its last block is finished: for a 14B model one takes about
    0.8 GB.

    Args:
        request: Whose prompts.
        condition: Makes the condition of a prompt's guidance branches: from
            ``Backbone.condition_text``.
        compression: Of the VAE, to turn latent frames into seconds.
    """

    def __init__(
        self, request: Request, condition: Callable[[str, range], Any], compression: Compression
    ) -> None:
        self._request = request
        self._condition = condition
        self._compression = compression
        self._made: dict[tuple[str, range], Any] = {}

    def condition(self, frames: FrameRange, branches: range) -> Any:
        """Return the condition of a block that holds ``frames``, of some guidance branches."""
        text = self._text(frames.start)
        if (text, branches) not in self._made:
            self._made[text, branches] = self._condition(text, branches)
        return self._made[text, branches]

    def finish(self, frames: FrameRange) -> None:
        """Drop what no block after ``frames`` can need."""
        now = self._seconds(frames.start)
        ahead = {prompt.text for prompt in self._request.prompts if prompt.at > now}
        ahead.add(self._request.prompt_at(now))
        self._made = {key: made for key, made in self._made.items() if key[0] in ahead}

    def _text(self, latent_frame: int) -> str:
        return self._request.prompt_at(self._seconds(latent_frame))

    def _seconds(self, latent_frame: int) -> float:
        return self._compression.start_second(latent_frame, self._request.fps)
