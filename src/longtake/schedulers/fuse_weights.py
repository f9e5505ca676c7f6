"""Fuse weights of context windows: how much each window counts for each of its latent frames.

The prediction of a frame is ``sum(weight * prediction) / sum(weight)`` over the windows that hold
it. ``shares`` divides the weights first: where all weights of a frame are tiny (the outer ends of
two ramps), a quotient of almost-zero numbers would be left of the predictions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

from longtake.schedulers.window_lists import Window

TINY: Final = 1e-37
"""The outer end of a ramp: counts where nothing else does."""


class FuseWeights(Protocol):
    """A rule of weights: a pure function."""

    def __call__(self, window: Window, frames: int, overlap: int) -> tuple[float, ...]:
        """Return one positive weight per frame of the window, in the window's order.

        Args:
            window: Latent frames.
            frames: Latent frames of the video.
            overlap: Latent frames that adjacent windows share.
        """


def flat(window: Window, frames: int, overlap: int) -> tuple[float, ...]:
    """Return 1 for every frame."""
    del frames, overlap
    return (1.0,) * len(window)


def pyramid(window: Window, frames: int, overlap: int) -> tuple[float, ...]:
    """Return 1, 2, 3, ... up to the middle and down again."""
    del frames, overlap
    count = len(window)
    return tuple(float(min(place + 1, count - place)) for place in range(count))


def overlap_linear(window: Window, frames: int, overlap: int) -> tuple[float, ...]:
    """Return 1, with straight ramps over the frames shared with the adjacent windows.

    No ramp at an end of the video. Where the two ramps of a window meet (an overlap of more than
    half a window), the falling one holds.
    """
    weights = [1.0] * len(window)
    ramp = _ramp(min(overlap, len(window)))
    if 0 not in window:
        weights[: len(ramp)] = ramp
    if frames - 1 not in window:
        weights[len(window) - len(ramp) :] = reversed(ramp)
    return tuple(weights)


def relative(window: Window, frames: int, overlap: int) -> tuple[float, ...]:
    """Return 1 in the middle, falling to 0.01 at both ends in proportion to the distance.

    Distances are counted in places of the window, so that windows with strides and windows over
    the end of a loop have the same weights as those of consecutive frames.
    """
    del frames, overlap
    last = len(window) - 1
    return tuple(
        max(0.01, 1 - abs(place - last / 2) / ((last + 0.01) / 2)) for place in range(last + 1)
    )


FUSE_WEIGHTS: Final[Mapping[str, FuseWeights]] = MappingProxyType(
    {
        "flat": flat,
        "pyramid": pyramid,
        "overlap-linear": overlap_linear,
        "relative": relative,
    }
)
"""Every rule by its published name."""


def shares(
    windows: Sequence[Window], weights: Sequence[Sequence[float]]
) -> tuple[tuple[float, ...], ...]:
    """Return the weights divided by their sum over all windows, frame by frame.

    Args:
        windows: All windows of one step.
        weights: Of each window, in the same order.

    Returns:
        Per window one share per frame; the shares of a frame add up to 1.
    """
    total: defaultdict[int, float] = defaultdict(float)
    for window, of_window in zip(windows, weights, strict=True):
        for frame, weight in zip(window, of_window, strict=True):
            total[frame] += weight
    return tuple(
        tuple(weight / total[frame] for frame, weight in zip(window, of_window, strict=True))
        for window, of_window in zip(windows, weights, strict=True)
    )


def _ramp(count: int) -> list[float]:
    """Return ``count`` numbers from almost 0 to 1; a single one is almost 0."""
    if count == 1:
        return [TINY]
    return [TINY + (1 - TINY) * place / (count - 1) for place in range(count)]
