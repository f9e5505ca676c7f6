"""Conditioning frames: those that a request starts from."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from longtake.errors import ConfigurationError
from longtake.framework.engine.conditioning_file import ConditioningFile
from longtake.framework.engine.request import Request
from longtake.models import BackboneSpec

KEPT: Final = 8
"""Latent frames of a video that are kept where the user names no number: a usual block."""
_LOWER: Final = 0.99
"""Of a rate: 23.976 and 24 frames a second are the same here."""


def check_start(request: Request, spec: BackboneSpec) -> None:
    """Refuse a start that the model or the file cannot give, and a missing one.

    Raises:
        ConfigurationError: Names what was asked for and the nearest valid choice.
    """
    if request.growth is not None:
        _check_growth(request, spec)
        return
    if spec.needs_end and request.end is None:
        raise ConfigurationError(
            f"{spec.name} makes what is between a first and a last picture, but there is no "
            f"data.end; give one, or choose a model that continues a first frame (Wan 2.1 I2V)."
        )
    if request.start is not None:
        if spec.start == "refused":
            raise ConfigurationError(
                f"data.start is {request.start}, but longtake cannot encode frames for "
                f"{spec.name} yet; leave it out, or choose a Wan model."
            )
        kept_frames(request, spec)
    elif spec.needs_start:
        raise ConfigurationError(
            f"{spec.name} continues a first frame, but there is no data.start; give an image or a "
            f"video file, or choose a text-to-video model."
        )


def start_file(request: Request) -> ConditioningFile:
    """Return what a request starts from, at its own frame rate."""
    assert request.start is not None
    return ConditioningFile(request.start, fps=Fraction(request.fps))


def lower_rate(request: Request) -> str | None:
    """Return a warning where a start has too few frames for the rate; else ``None``."""
    if request.start is None or request.growth is not None:
        return None  # no file is read
    rate = start_file(request).rate()
    if not rate or rate > request.fps * _LOWER:
        return None
    return (
        f"data.start is {request.start}, a video of {float(rate):.5g} frames a second, but "
        f"data.fps is {request.fps}: some of its frames are taken several times, and what is made "
        f"may move in jerks as well; data.fps {round(rate)} would take each once."
    )


def kept_frames(request: Request, spec: BackboneSpec, file: ConditioningFile | None = None) -> int:
    """Return how many video frames of the end of its start a request keeps.

    Args:
        request: With a start.
        spec: Of the backbone.
        file: That start, if it is open.

    Raises:
        ConfigurationError: The file cannot be read, or has not as many as were asked for.
    """
    assert request.start is not None
    if request.growth is not None:
        return request.growth.known
    compression, count = spec.compression, (file or start_file(request)).count()
    limits = [(count, f"{request.start} has {count} video frame{'' if count == 1 else 's'}")]
    if request.num_frames is not None:
        made = f"data.num_frames is {request.num_frames}, some of which are to be made"
        limits.append((request.num_frames - 1, made))
    if spec.start == "channels":
        native = compression.video_frames(spec.native_frames)
        limits.append((native - 1, f"{spec.name} makes clips of {native}"))
    limit, reason = min(limits)
    if limit < 1:
        raise ConfigurationError(
            f"data.num_frames is {request.num_frames}, but data.start gives 1 already; the nearest "
            f"is {compression.video_frames(2)}."
        )
    most = compression.at_most(limit)
    if request.start_frames is None:
        return min(compression.video_frames(KEPT), most)
    try:
        compression.latent_frames(request.start_frames, "start_frames")
    except ValueError as error:
        raise ConfigurationError(f"data.{error}") from error
    if request.start_frames > most:
        raise ConfigurationError(
            f"data.start_frames is {request.start_frames}, but {reason}; the most is {most}."
        )
    return request.start_frames


def _check_growth(request: Request, spec: BackboneSpec) -> None:
    """Refuse to let a video grow from its tail whose model cannot be given latents alone."""
    assert request.growth is not None
    if spec.start == "replaced":
        return
    why = (
        "continues pictures, not latents"
        if spec.needs_start
        else "cannot be given known frames by longtake yet"
    )
    raise ConfigurationError(
        f"--extend cannot go on from the {request.growth.frames} video frames that are there: "
        f"{spec.name} {why}. Where it continues pictures, give the video as data.start of another "
        f"run; a run with --keep_latents all --keep_snapshots extend goes on exactly, with every "
        f"model."
    )
