"""One request: what the user wants to see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptAt:
    """A prompt that holds from a moment of the video on.

    Args:
        at: Seconds from the start of the video.
        text: The prompt.
    """

    text: str
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One video to make.

    Args:
        prompts: Prompts along the video, in the order of time, the first one at 0 seconds.
        num_frames: Video frames; ``None`` for an endless video.
        height: Pixels.
        width: Pixels.
        fps: Video frames per second.
        seed: Of the starting noise.
        negative_prompt: What guidance steers away from.
        index: Number of the request in the run; names its output folder.
    """

    prompts: tuple[PromptAt, ...]
    num_frames: int | None
    height: int
    width: int
    fps: int = 16
    seed: int = 0
    negative_prompt: str = ""
    index: int = 0

    def prompt_at(self, seconds: float) -> str:
        """Return the prompt that holds ``seconds`` into the video."""
        return next(prompt.text for prompt in reversed(self.prompts) if prompt.at <= seconds)
