"""Request: what the user wants to see."""

from __future__ import annotations

from dataclasses import dataclass

from longtake.errors import ConfigurationError


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
        start: Image or video file that the video starts from; ``None``: from noise alone.
        start_frames: Video frames of the end of that file that are kept; ``None``: a usual number.
        index: Number of the request in the run; names its output folder.
        origin: Where it was asked for (a file and line), for error messages.

    Raises:
        ConfigurationError: There is no prompt, one is empty, or the schedule does not start at 0
            and run forward.
    """

    prompts: tuple[PromptAt, ...]
    num_frames: int | None
    height: int
    width: int
    fps: int = 16
    seed: int = 0
    negative_prompt: str = ""
    start: str | None = None
    start_frames: int | None = None
    index: int = 0
    origin: str = ""

    def __post_init__(self) -> None:
        where = self.origin or f"prompt {self.index} in data.prompts"
        times = [prompt.at for prompt in self.prompts]
        if not times or times[0] != 0 or times != sorted(set(times)):
            raise ConfigurationError(
                f"{where} changes at {times} seconds, but a schedule starts at 0 and runs forward."
            )
        if any(not prompt.text.strip() for prompt in self.prompts):
            raise ConfigurationError(f"{where} is empty.")

    def prompt_at(self, seconds: float) -> str:
        """Return the prompt that holds ``seconds`` into the video."""
        return next(prompt.text for prompt in reversed(self.prompts) if prompt.at <= seconds)
