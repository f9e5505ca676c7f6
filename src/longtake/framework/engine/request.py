"""Request: one video to make, and the options by which it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from longtake.errors import ConfigurationError
from longtake.framework.engine.frame_rate import FrameRate, frame_rate
from longtake.models import Defaults


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
class Keyframe:
    """A picture that a video shows at a moment.

    Args:
        at: Seconds from the start of the video.
        image: File with the picture.
    """

    at: float
    image: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """Options of a video beside its prompt: ``data.*`` of the YAML, keys of a line of JSON Lines.

    Each is written here alone: ``Request`` and ``PromptData`` inherit these fields, and ``--help``
    has these texts.

    Args:
        num_frames: Video frames; exactly as many are made. ``null`` for an endless video, which
            Ctrl-C ends with a complete file. ``auto``: a clip as long as the model's own
            (``longtake models``).
        height: Height in pixels; left out: the model's own.
        width: Width in pixels; left out: the model's own.
        fps: Video frames per second, 24 or 23.976 or 24000/1001; left out: the model's own.
        seed: Of the starting noise; the same prompt and seed give the same video, alone or in a
            batch, on any device count. ``null`` draws one for the run, which ``config.yaml`` and
            ``report.json`` say.
        negative_prompt: What guidance steers away from; left out: the model's own, which for most
            is none.
        start: File that the video starts from: an image (PNG, JPEG, WebP), which becomes its
            first frame, or a video or a folder of frames, which it continues: the new video begins
            with the last frames of that one, at ``fps``, decoded from the model's latents. Cropped
            around the center to the shape of ``height`` and ``width``, and resized.
        start_frames: How many of the last frames of a video in ``start`` are kept: 1, 5, 9, ...
            with a VAE of 4 video frames per latent frame. Left out: 8 latent frames' worth (29),
            or as many as there are.
        end: File with the picture that the video ends with. It is resized; of another shape than
            ``height`` and ``width``, or smaller, it is refused.
        keyframes: Pictures that the video shows on its way: a list of ``{at: seconds, image:
            file}``, each as ``end``.
    """

    num_frames: int | Literal["auto"] | None = "auto"
    height: int | None = None
    width: int | None = None
    fps: int | float | str | None = None
    seed: int | None = 0
    negative_prompt: str | None = None
    start: str | None = None
    start_frames: int | None = None
    end: str | None = None
    keyframes: list[Keyframe] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What is there of a video that grows by a request.

    Args:
        frames: Video frames that are there.
        known: The last of them, with which the request begins: they are known in latents, decoded
            again, and not written again.
        seams: At how many video frames it was extended from its tail: those before, and this.
    """

    frames: int
    known: int
    seams: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(VideoOptions):
    """One video to make: its options, none of them left to the model, and its prompts.

    Args:
        prompts: Prompts along the video, in the order of time, the first one at 0 seconds. A text
            alone, or a sequence of one, is taken for a prompt that holds all along.
        index: Number of the request in the run; names its output folder.
        origin: Where it was asked for (a file and line), for error messages.
        growth: Of a part by which a finished video grows: what is there of it. Its ``start`` is the
            journal of that video then.

    Raises:
        ConfigurationError: There is no prompt, one is empty, or the schedule does not start at 0
            and run forward.
    """

    prompts: tuple[PromptAt, ...]
    # Narrower than the options: nothing is open any more.
    num_frames: int | None
    height: int
    width: int
    fps: FrameRate = 16  # type: ignore[assignment]
    seed: int = 0
    negative_prompt: str = ""
    keyframes: tuple[Keyframe, ...] = ()  # type: ignore[assignment]
    index: int = 0
    origin: str = ""
    growth: Growth | None = None

    @property
    def whole_frames(self) -> int | None:
        """Video frames of the whole video, also of one that grows by this request."""
        if self.growth is None or self.num_frames is None:
            return self.num_frames
        return self.growth.frames - self.growth.known + self.num_frames

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", prompt_schedule(self.prompts))
        where = self.origin or f"prompt {self.index} in data.prompts"
        times = [prompt.at for prompt in self.prompts]
        if not times or times[0] != 0 or times != sorted(set(times)):
            raise ConfigurationError(
                f"{where} changes at {times} seconds, but a schedule starts at 0 and runs forward."
            )
        if any(not prompt.text.strip() for prompt in self.prompts):
            raise ConfigurationError(f"{where} is empty.")

    @property
    def shows_given_frames(self) -> bool:
        """Whether anything of the video is given."""
        return bool(self.start is not None or self.end is not None or self.keyframes)

    @property
    def encodes_frames(self) -> bool:
        """Whether given frames are encoded: a video that grows has the latents of its tail."""
        return self.shows_given_frames if self.growth is None else self.end is not None

    def prompt_at(self, seconds: float) -> str:
        """Return the prompt that holds ``seconds`` into the video."""
        return next(prompt.text for prompt in reversed(self.prompts) if prompt.at <= seconds)


def prompt_schedule(given: str | PromptAt | Sequence[str | PromptAt]) -> tuple[PromptAt, ...]:
    """Return the prompts of one video, in whichever form Python has given them.

    Raises:
        ConfigurationError: They are something else, or several texts that say no time.
    """
    each: tuple[str | PromptAt, ...]
    if isinstance(given, str | PromptAt) or not isinstance(given, Iterable):
        each = (given,)
    else:
        each = tuple(given)
    for one in each:
        if not isinstance(one, str | PromptAt):
            raise ConfigurationError(
                f"a prompt is {one!r}, of type {type(one).__name__}; it is a text, or PromptAt("
                f'at=0.0, text="...").'
            )
    if len(each) > 1 and any(isinstance(one, str) for one in each):
        raise ConfigurationError(
            f"one video has {len(each)} prompts, but not all say from when on they hold: give each "
            f'as PromptAt(at=seconds, text="..."), or ask for {len(each)} videos.'
        )
    return tuple(PromptAt(text=one) if isinstance(one, str) else one for one in each)


def repeated(requests: Iterable[Request]) -> list[str]:
    """Return a warning for each request that asks for the same video as an earlier one."""
    first: dict[Request, Request] = {}
    warnings = []
    for request in requests:
        same = first.setdefault(replace(request, index=0, origin=""), request)
        if same is not request:
            warnings.append(
                f"request {request.index} asks for the same video as request {same.index}, with "
                f"seed {request.seed}: it is made twice; a line of a .jsonl file may have a seed "
                f"of its own."
            )
    return warnings


def settled(options: Mapping[str, Any], defaults: Defaults) -> dict[str, Any]:
    """Return options of a video by name, with the model's own where they are left to it."""
    own = asdict(defaults)
    found = {name: own.get(name) if value is None else value for name, value in options.items()}
    if (rate := found.get("fps")) is not None:
        found["fps"] = frame_rate(rate)
    if found.get("num_frames") == "auto":
        found["num_frames"] = defaults.frames
    return found
