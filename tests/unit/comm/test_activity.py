"""What a rank's watchdog knows: what takes too long, on the host and on the device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from longtake.comm import activity as module
from longtake.comm.activity import Activity, Limits

LIMITS = Limits(report=10, report_times=3, first=60, hang=120, hang_times=10)


class Clock:
    """Replaces the module's ``time``."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_what_is_not_known_is_given_more_time_and_never_hangs(clock: Clock) -> None:
    activity = Activity(LIMITS)
    with activity.action("compute block 0, step 0", "compute"):
        clock.now += 59
        assert activity.overdue() is None
        clock.now += 10_000
        overdue = activity.overdue()
    assert overdue is not None
    assert overdue.expected is None
    assert not overdue.hangs
    assert str(overdue) == "has been in compute block 0, step 0 for 10059 s"


@pytest.mark.parametrize(
    ("took", "seconds", "reported", "hangs"),
    [
        (1, 10, False, False),
        (1, 11, True, False),
        (5, 15, False, False),
        (5, 16, True, False),
        (1, 121, True, True),
        (20, 121, True, False),
        (20, 201, True, True),
    ],
)
def test_an_action_may_take_three_times_what_it_took_and_ten_seconds(
    clock: Clock, took: float, seconds: float, reported: bool, hangs: bool
) -> None:
    activity = Activity(LIMITS)
    with activity.action("compute block 0, step 0", "compute"):
        clock.now += took
    with activity.action("compute block 1, step 0", "compute"):
        clock.now += seconds
        overdue = activity.overdue()
    assert (overdue is not None) == reported
    assert (overdue is not None and overdue.hangs) == hangs


def test_waiting_for_another_rank_is_no_hang_of_this_one(clock: Clock) -> None:
    activity = Activity(LIMITS)
    for seconds in (1.0, 10_000.0):
        with activity.action("receive hop", "receive", partner=3):
            clock.now += seconds
            overdue = activity.overdue()
    assert overdue is not None
    assert overdue.doing.partner == 3
    assert not overdue.hangs


def test_a_slow_first_action_does_not_count_for_ever(clock: Clock) -> None:
    activity = Activity(LIMITS)
    for seconds in (100, *[1] * 8):
        with activity.action("compute", "compute"):
            clock.now += seconds
    with activity.action("compute", "compute"):
        clock.now += 11
        overdue = activity.overdue()
    assert overdue is not None
    assert overdue.expected == 1


def test_a_device_that_does_not_finish_is_told_although_the_rank_goes_on(clock: Clock) -> None:
    activity, done = Activity(LIMITS), False
    for _ in range(2):
        with activity.action("compute block 0, step 0", "compute"):
            activity.queued(lambda: done)
    done = True
    clock.now += 2
    assert activity.overdue() is None
    done = False
    with activity.action("compute block 1, step 0", "compute"):
        activity.queued(lambda: done)
    with activity.action("receive", "receive", partner=1):
        clock.now += 121
        overdue = activity.overdue()
    assert overdue is not None
    assert overdue.on_device
    assert overdue.hangs
    assert "its device has not finished, compute block 1, step 0 for 121 s" in str(overdue)


def test_the_first_action_that_a_device_has_not_finished_is_known(clock: Clock) -> None:
    activity = Activity(LIMITS)
    for step in (0, 1):
        with activity.action(f"compute block 0, step {step}", "compute", together=(1, 2)):
            activity.queued(lambda: False)
    activity.overdue()
    assert activity.on_device is not None
    assert activity.on_device.name == "compute block 0, step 0"
    assert activity.on_device.together == (1, 2)


def test_limits_are_those_that_are_given(clock: Clock) -> None:
    activity = Activity(replace(LIMITS, report=1, report_times=1))
    with activity.action("compute", "compute"):
        clock.now += 0.5
    with activity.action("compute", "compute"):
        clock.now += 1.5
        assert activity.overdue() is not None
