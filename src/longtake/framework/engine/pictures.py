"""Pictures that a video shows at given moments: its end and its keyframes, by latent frame."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from longtake.errors import ConfigurationError
from longtake.framework.engine.conditioning import kept_frames
from longtake.framework.engine.conditioning_file import ConditioningFile
from longtake.framework.engine.request import Request
from longtake.models import BackboneSpec, Compression, ConditioningKind
from longtake.schedulers import BlockScheduler

_LATEST: Final = 24 * 3600
"""Seconds into an endless video at which the last keyframe may be: nobody waits for longer."""
TAKES: Final = 2
"""Latent frames that a picture takes: its own, and the one that leads to it."""
_CUT_OFF: Final = 0.02
"""Share of a picture's height or width that may be cut off for the shape of the video."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a request.

    Args:
        kind: ``end`` or ``keyframes``.
        option: What it was given for, in refusals.
        path: Its file.
        second: When it is shown.
        latent_frame: The one that holds the video frame of that moment.
    """

    kind: ConditioningKind
    option: str
    path: str
    second: float
    latent_frame: int


def pictures(request: Request, compression: Compression) -> list[Picture]:
    """Return the pictures of a request, in the order of time.

    Args:
        request: Whose.
        compression: Of the model's VAE.

    Raises:
        ConfigurationError: One is outside the video.
    """
    return sorted(_each(request, compression), key=lambda one: one.latent_frame)


def check_pictures(request: Request, spec: BackboneSpec, scheduler: BlockScheduler) -> None:
    """Refuse pictures that the model, the scheduler, the video or their files cannot give.

    Args:
        request: After ``check_request`` and ``check_start``.
        spec: Of the backbone.
        scheduler: Of its blocks.

    Raises:
        ConfigurationError: Names what was asked for and the nearest valid choice.
    """
    found = pictures(request, spec.compression)
    if not found:
        return
    first = found[0]
    if spec.start == "given":
        raise ConfigurationError(
            f"{first.option} is {first.path}, but {spec.name} knows given frames as the first ones "
            f"of a video only; leave it out, or choose a Wan model."
        )
    if spec.honours(first.kind) == "refused":
        raise ConfigurationError(
            f"{first.option} is {first.path}, but longtake cannot encode frames for {spec.name} "
            f"yet; leave it out, or choose a Wan model."
        )
    if scheduler.known_frames == "copied":
        raise ConfigurationError(
            f"{first.option} is {first.path}, but {type(scheduler).__name__} makes its blocks from "
            f"copies of a clip, in which no picture has a place; choose the FifoQueue scheduler, "
            f"or leave it out."
        )
    _check_apart(found, request, spec)
    for picture in found:
        _check_size(picture, request)


def _each(request: Request, compression: Compression) -> Iterator[Picture]:
    for keyframe in request.keyframes:
        option = f"data.keyframes at {keyframe.at:g} s"
        frame = _frame(keyframe.at, f"{option} is {keyframe.image}", request)
        latent_frame = compression.latent_frame_of(frame)
        yield Picture("keyframes", option, keyframe.image, keyframe.at, latent_frame)
    if request.end is None:
        return
    if request.num_frames is None:
        raise ConfigurationError(
            f"data.end is {request.end}, but data.num_frames is null (an endless video), which "
            f"has no end; give num_frames, or a picture in data.keyframes."
        )
    last = compression.latent_frame_of(request.num_frames - 1)
    yield Picture(
        "end", "data.end", request.end, float((request.num_frames - 1) / request.fps), last
    )


def _frame(second: float, named: str, request: Request) -> int:
    """Return the video frame that is nearest to a moment."""
    if request.num_frames is None:
        latest, video = float(_LATEST), "an endless video takes keyframes in its first 24 hours"
    else:
        latest = float((request.num_frames - 1) / request.fps)
        video = (
            f"this video of {request.num_frames} frames at {request.fps} per second shows its last "
            f"one at {latest:g} s"
        )
    frame = round(second * request.fps) if math.isfinite(second) else -1
    if frame < 0 or frame > latest * request.fps + 0.5:
        raise ConfigurationError(f"{named}, but {video}; choose 0 to {latest:g}.")
    return frame


def _check_apart(found: list[Picture], request: Request, spec: BackboneSpec) -> None:
    """Refuse pictures that are too close to one another, or to the start."""
    compression, fps = spec.compression, request.fps
    if request.start is not None:
        kept, first = kept_frames(request, spec), found[0]
        earliest = compression.latent_frames(kept) + TAKES - 1
        if first.latent_frame < earliest:
            raise ConfigurationError(
                f"{first.option} is {first.path}, but data.start gives the first {kept} video "
                f"frame{'' if kept == 1 else 's'}, and a picture takes {TAKES} latent frames; the "
                f"earliest is {compression.start_second(earliest, fps):g} s."
            )
    for one, other in pairwise(found):
        if other.latent_frame - one.latent_frame < TAKES:
            free = compression.start_second(one.latent_frame + TAKES, fps)
            raise ConfigurationError(
                f"{one.option} is {one.path} and {other.option} is {other.path}, but a picture "
                f"takes {TAKES} latent frames ({TAKES * compression.temporal} video frames), and "
                f"these are too close to each other; the earliest for the second is {free:g} s."
            )


def _check_size(picture: Picture, request: Request) -> None:
    """Refuse what is no single picture, or would be cut off or enlarged."""
    file = ConditioningFile(picture.path, picture.option)
    count = file.count()
    if count != 1:
        raise ConfigurationError(
            f"{picture.option} is {picture.path}, which has {count} video frames, but one picture "
            f"is shown there; give an image."
        )
    height, width, _ = file.original(1).shape
    asked = f"{request.width} x {request.height}"
    scale = max(request.width / width, request.height / height)
    kept = min(request.width / (width * scale), request.height / (height * scale))
    if 1 - kept > _CUT_OFF:
        raise ConfigurationError(
            f"{picture.option} is {picture.path}, {width} x {height} pixels, but the video is "
            f"{asked}, and of a picture of another shape a part would be cut off; give one of "
            f"{asked}, or of that shape and larger."
        )
    if scale > 1:
        raise ConfigurationError(
            f"{picture.option} is {picture.path}, {width} x {height} pixels, but the video is "
            f"{asked}, and an enlarged picture would blur it; give one of {asked}, or larger."
        )
