"""Prompt schedule of a request, projected once per prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from longtake.framework.engine.request import Request
from longtake.models import Compression
from longtake.task import FrameRange


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
