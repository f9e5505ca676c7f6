"""Context windows as lists of latent frames: which windows one denoising step of a video has.

ComfyUI's schedules as pure data. A window is a tuple of latent frames in the order in which they
are forwarded; their positions are 0, 1, 2, ... whatever the frames. Windows are listed in the
order in which they are forwarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import gcd
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

from longtake.errors import ConfigurationError

Window: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowShape:
    """What the windows of a video have in common.

    Args:
        length: Latent frames of a window.
        overlap: Latent frames that adjacent windows share, fewer than ``length``.
        stride: How many strides (1, 2, 4, ...) the uniform and looped schedules use at most. A
            stride is used while its windows fit the video.

    Raises:
        ConfigurationError: One of them cannot be, or windows would not move forward.
    """

    length: int
    overlap: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ConfigurationError(
                f"context windows of {self.length} latent frames hold nothing; the least is 1."
            )
        if not 0 <= self.overlap < self.length:
            nearest = min(max(self.overlap, 0), self.length - 1)
            raise ConfigurationError(
                f"context windows of {self.length} latent frames cannot overlap by {self.overlap}: "
                f"the next window has to begin after this one; the nearest overlap is {nearest}."
            )
        if self.stride < 1:
            raise ConfigurationError(
                f"context windows cannot use {self.stride} strides; the least is 1, which is "
                f"windows of consecutive frames only."
            )


class WindowList(Protocol):
    """A schedule of windows: a pure function."""

    def __call__(self, frames: int, shape: WindowShape, step: int) -> tuple[Window, ...]:
        """Return the windows of one denoising step; together they cover every frame.

        Args:
            frames: Latent frames of the video, 1 or more.
            shape: What the windows have in common.
            step: Denoising step, 0 = noisiest.
        """


def static(frames: int, shape: WindowShape, step: int) -> tuple[Window, ...]:
    """Return overlapping windows, the last one moved back to the end; the same at every step.

    Strides are not used.
    """
    del step
    if frames <= shape.length:
        return (tuple(range(frames)),)
    last = frames - shape.length
    starts = [*range(0, last, shape.length - shape.overlap), last]
    return tuple(tuple(range(start, start + shape.length)) for start in starts)


def batched(frames: int, shape: WindowShape, step: int) -> tuple[Window, ...]:
    """Return the video cut into windows, the last one maybe shorter; the same at every step.

    Neither overlap nor strides are used.
    """
    del step
    starts = range(0, frames, shape.length)
    return tuple(tuple(range(start, min(start + shape.length, frames))) for start in starts)


def looped(frames: int, shape: WindowShape, step: int) -> tuple[Window, ...]:
    """Return windows that go on over the video's end at its beginning: the video is a loop.

    They begin elsewhere at every step, so that no seam stays in one place. Windows that would
    hold a frame twice are left out, and all of their stride: the published list has them.
    """
    if frames < shape.length:
        return (tuple(range(frames)),)
    return tuple(_around(frames, shape, step, end=frames, sound=_without_repeats))


def looped_open(frames: int, shape: WindowShape, step: int) -> tuple[Window, ...]:
    """Return the windows of ``looped`` without those that only close the loop once more."""
    if frames < shape.length:
        return (tuple(range(frames)),)
    return tuple(_around(frames, shape, step, end=frames - shape.overlap, sound=_without_repeats))


def uniform(frames: int, shape: WindowShape, step: int) -> tuple[Window, ...]:
    """Return windows that begin elsewhere at every step, none of which goes over the end.

    Those of ``looped_open``; one that goes over the end is moved back to end there, and its frames
    at the beginning get a window of their own unless the next window has the first of them. None
    is listed twice. Windows longer than the video are left out, and all of their stride: where
    they would be moved to, the published list leaves the video. Frames that the published list
    leaves out (rare: the next window may be one of the next stride) get windows of their own.
    """
    if frames <= shape.length:
        return (tuple(range(frames)),)
    listed = list(_around(frames, shape, step, end=frames - shape.overlap, sound=_fits))
    placed: list[Window] = []
    for window, following in zip(listed, [*listed[1:], None], strict=True):
        began = next((after for before, after in pairwise(window) if after < before), None)
        if began is None:
            placed.append(window)
            continue
        stride = (window[1] - window[0]) % frames
        first = frames - 1 - stride * (shape.length - 1)
        placed.append(tuple(range(first, frames, stride)))
        # After the last window comes the first one, as it has been placed.
        if began not in (placed[0] if following is None else following):
            placed.append(tuple(range(began, began + shape.length)))
    missing = sorted(set(range(frames)).difference(*placed))
    while missing:
        start = min(missing[0], frames - shape.length)
        placed.append(tuple(range(start, start + shape.length)))
        missing = [frame for frame in missing if frame >= start + shape.length]
    return tuple(dict.fromkeys(placed))


WINDOW_LISTS: Final[Mapping[str, WindowList]] = MappingProxyType(
    {
        "static": static,
        "uniform": uniform,
        "looped": looped,
        "looped_open": looped_open,
        "batched": batched,
    }
)
"""Every schedule by its name."""


def _without_repeats(frames: int, length: int, stride: int) -> bool:
    return frames // gcd(frames, stride) >= length


def _fits(frames: int, length: int, stride: int) -> bool:
    return stride * (length - 1) < frames


def _around(
    frames: int,
    shape: WindowShape,
    step: int,
    *,
    end: int,
    sound: Callable[[int, int, int], bool],
) -> Iterator[Window]:
    """Yield windows around the loop of frames, stride by stride, from the step's shift to ``end``.

    The strides are as many as ``shape`` allows, at most one more than the doublings of ``length``
    that reach ``frames``, and of them those whose windows are ``sound``.
    """
    shift = _halving(step)
    pad = round(frames * shift)
    doublings = (-(-frames // shape.length) - 1).bit_length()
    for stride in (1 << power for power in range(min(shape.stride, doublings + 1))):
        if not sound(frames, shape.length, stride):
            continue
        reach = shape.length * stride
        for start in range(int(shift * stride) + pad, end + pad, reach - shape.overlap):
            yield tuple(frame % frames for frame in range(start, start + reach, stride))


def _halving(step: int) -> Fraction:
    """Return 0, 1/2, 1/4, 3/4, 1/8, ...: a step's bits in reverse order behind the point."""
    return Fraction(int(f"{step:b}"[::-1], 2), 1 << step.bit_length())
