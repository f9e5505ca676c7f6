"""Context windows: equal to the published lists, and sound where those are not."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from tests.unit.schedulers.window_listings import Published, published, recorded, schedule

from longtake.errors import ConfigurationError
from longtake.schedulers.window_lists import (
    WINDOW_LISTS,
    WindowShape,
    batched,
    looped,
    static,
    uniform,
)

RANDOM_SHAPES = 3000


@pytest.mark.parametrize("case", published(), ids=lambda case: case.name)
def test_windows_equal_the_published_ones(case: Published) -> None:
    for step in case.steps:
        assert case.list_of(case.frames, case.shape, step) == case.windows


@pytest.mark.parametrize("case", recorded(), ids=lambda case: case["algorithm"])
def test_windows_equal_those_of_a_recorded_run(case: dict[str, Any]) -> None:
    shape = WindowShape(length=case["length"], overlap=case["overlap"], stride=case["stride"])
    frames = case["latents_shape"][2]
    for forward in case["forwards"]:
        windows = schedule(case)(frames, shape, forward["step"])
        assert [list(window) for window in windows] == forward["windows"]


@pytest.mark.parametrize("name", WINDOW_LISTS)
def test_windows_of_any_shape_cover_the_video(name: str) -> None:
    """Every frame in some window, none twice in one, each window of the whole length."""
    draw = random.Random(name)
    for _ in range(RANDOM_SHAPES):
        frames, length = draw.randint(1, 70), draw.randint(1, 20)
        shape = WindowShape(
            length=length, overlap=draw.randrange(length), stride=draw.randint(1, 5)
        )
        step = draw.randint(0, 60)
        windows = WINDOW_LISTS[name](frames, shape, step)
        where = f"{frames} frames, {shape}, step {step}: {windows}"
        assert set().union(*windows) == set(range(frames)), where
        assert all(len(set(window)) == len(window) for window in windows), where
        if name != "batched":
            assert {len(window) for window in windows} == {min(length, frames)}, where
        if name in ("static", "uniform", "batched"):
            assert all(list(window) == sorted(window) for window in windows), where
            assert len(set(windows)) == len(windows), where


def test_a_video_no_longer_than_a_window_has_one() -> None:
    shape = WindowShape(length=8, overlap=3, stride=2)
    for name, windows in WINDOW_LISTS.items():
        assert windows(7, shape, 3) == (tuple(range(7)),), name
    assert static(8, shape, 3) == uniform(8, shape, 3) == batched(8, shape, 3)


def test_static_windows_share_the_overlap_but_for_the_last() -> None:
    windows = static(30, WindowShape(length=8, overlap=3), 0)
    shared = [len({*a} & {*b}) for a, b in pairwise(windows)]
    assert shared == [3, 3, 3, 3, 6]


def test_looped_windows_begin_elsewhere_at_every_step_and_shift_around_the_loop() -> None:
    """The shift is half the video at step 1, a quarter at 2: each halves what was left."""
    shape = WindowShape(length=8, overlap=2)
    starts = [looped(32, shape, step)[0][0] for step in range(8)]
    assert starts == [0, 16, 8, 24, 4, 20, 12, 28]
    for step, start in enumerate(starts):
        moved = [tuple((frame + start) % 32 for frame in window) for window in looped(32, shape, 0)]
        assert looped(32, shape, step) == tuple(moved)


def test_uniform_windows_cover_frames_that_the_published_list_leaves_out() -> None:
    """A window over the end is followed by one of the next stride, which has frame 0, not 1."""
    windows = uniform(11, WindowShape(length=5, overlap=2, stride=2), 2)
    listed = ((3, 4, 5, 6, 7), (6, 7, 8, 9, 10), (2, 4, 6, 8, 10), (0, 2, 4, 6, 8))
    assert windows == (*listed, (1, 2, 3, 4, 5))


def test_strides_whose_windows_do_not_fit_are_left_out() -> None:
    """Four frames apart, 8 frames reach 29 frames far: out of 21, or round a loop of 24."""
    for windows, frames in ((uniform, 21), (looped, 24)):
        two = windows(frames, WindowShape(length=8, overlap=4, stride=2), 1)
        assert windows(frames, WindowShape(length=8, overlap=4, stride=3), 1) == two
    odd = looped(21, WindowShape(length=8, overlap=4, stride=3), 0)
    assert (0, 4, 8, 12, 16, 20, 3, 7) in odd, "twice round an odd loop repeats no frame"


@pytest.mark.parametrize(
    ("length", "overlap", "stride", "message"),
    [
        (8, 8, 1, "cannot overlap by 8.*nearest overlap is 7"),
        (8, 12, 1, "cannot overlap by 12.*nearest overlap is 7"),
        (8, -1, 1, "cannot overlap by -1.*nearest overlap is 0"),
        (0, 0, 1, "of 0 latent frames"),
        (8, 4, 0, "cannot use 0 strides"),
    ],
)
def test_shapes_that_cannot_be_are_refused(
    length: int, overlap: int, stride: int, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        WindowShape(length=length, overlap=overlap, stride=stride)
