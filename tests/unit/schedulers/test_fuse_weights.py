"""Fuse weights: equal to the published ones, and shares that add up to 1."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest
from tests.unit.schedulers.window_listings import Published, published, recorded

from longtake.schedulers.fuse_weights import (
    FUSE_WEIGHTS,
    flat,
    overlap_linear,
    pyramid,
    relative,
    shares,
)
from longtake.schedulers.window_lists import WINDOW_LISTS, WindowShape

TOLERANCE = 4e-8  # the published ones are fp32


def furthest(ours: object, theirs: object) -> float:
    """Return the largest difference of nested lists of equal shape."""
    if isinstance(ours, float) and isinstance(theirs, float):
        return abs(ours - theirs)
    assert isinstance(ours, list | tuple)
    assert isinstance(theirs, list | tuple)
    return max(furthest(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("case", published(), ids=lambda case: case.name)
def test_weights_equal_the_published_ones(case: Published) -> None:
    assert case.weights
    for rule, listed in case.weights.items():
        weights = [
            FUSE_WEIGHTS[rule](window, case.frames, case.shape.overlap) for window in case.windows
        ]
        # The published ``relative`` is a running average: its weights are listed as shares.
        ours = shares(case.windows, weights) if rule == "relative" else weights
        assert furthest(ours, listed) < TOLERANCE, rule


@pytest.mark.parametrize("case", published(), ids=lambda case: case.name)
def test_frames_of_almost_no_weight_are_fused_as_if_they_had_some(case: Published) -> None:
    """The published quotient of numbers around 1e-38 loses their digits."""
    for rule, frames in case.tiny.items():
        weights = [
            FUSE_WEIGHTS[rule](window, case.frames, case.shape.overlap) for window in case.windows
        ]
        for frame in frames:
            places = [
                (of_window[window.index(frame)], share[window.index(frame)])
                for window, of_window, share in zip(
                    case.windows, weights, shares(case.windows, weights), strict=True
                )
                if frame in window
            ]
            assert max(weight for weight, _ in places) < 1e-36
            assert [share for _, share in places] == [pytest.approx(1 / len(places))] * len(places)


@pytest.mark.parametrize("case", recorded(), ids=lambda case: case["algorithm"])
def test_weights_equal_those_of_a_recorded_run(case: dict[str, Any]) -> None:
    rule = FUSE_WEIGHTS[case["fuse"]]
    frames = case["latents_shape"][2]
    for forward in case["forwards"]:
        windows = [tuple(window) for window in forward["windows"]]
        weights = [rule(window, frames, case["overlap"]) for window in windows]
        assert furthest(weights, forward["weights"]) < TOLERANCE


@pytest.mark.parametrize("rule", FUSE_WEIGHTS)
def test_shares_of_every_frame_add_up_to_one(rule: str) -> None:
    draw = random.Random(rule)
    for _ in range(500):
        frames, length = draw.randint(1, 60), draw.randint(1, 16)
        shape = WindowShape(
            length=length, overlap=draw.randrange(length), stride=draw.randint(1, 3)
        )
        name = draw.choice(list(WINDOW_LISTS))
        windows = WINDOW_LISTS[name](frames, shape, draw.randint(0, 20))
        weights = [FUSE_WEIGHTS[rule](window, frames, shape.overlap) for window in windows]
        assert all(weight > 0 for of_window in weights for weight in of_window)
        total: defaultdict[int, float] = defaultdict(float)
        for window, share in zip(windows, shares(windows, weights), strict=True):
            for frame, part in zip(window, share, strict=True):
                total[frame] += part
        assert dict(total) == {frame: pytest.approx(1) for frame in range(frames)}


def test_pyramids_have_one_peak_or_two_equal_ones() -> None:
    assert pyramid((4, 5, 6, 7, 8), 20, 2) == (1, 2, 3, 2, 1)
    assert pyramid((4, 5, 6, 7), 20, 2) == (1, 2, 2, 1)


def test_without_overlap_there_is_no_ramp() -> None:
    """The published rule raises."""
    window = (8, 9, 10, 11)
    assert overlap_linear(window, 20, 0) == flat(window, 20, 0)


def test_a_ramp_is_no_longer_than_its_window() -> None:
    """The last window of a cut video: the published rule raises."""
    assert overlap_linear((8, 9, 10), 11, 5) == pytest.approx((0, 0.5, 1))


def test_relative_weights_depend_on_the_places_in_the_window_only() -> None:
    assert relative((14, 15, 0, 1), 16, 2) == relative((3, 5, 7, 9), 16, 2)
    assert relative((14, 15, 0, 1), 16, 2) == pytest.approx((0.01, 0.667774, 0.667774, 0.01))
