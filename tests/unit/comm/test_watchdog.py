"""What a watchdog makes of an action that takes too long, by what the others do."""

from __future__ import annotations

import threading

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from longtake.comm import activity as module
from longtake.comm import watchdog
from longtake.comm.activity import Activity, Limits
from longtake.comm.watchdog import Watchdog

LIMITS = Limits(report=10, report_times=3, hang=120, hang_times=10)


def watch_of_two(said: list[str]) -> tuple[Activity, Watchdog, Watchdog, Activity]:
    store, activity, theirs = HashStore(), Activity(LIMITS), Activity()
    watch = Watchdog(store, 0, 2, 60.0, None, activity, said.append)
    other = Watchdog(store, 1, 2, 60.0, None, theirs)
    return activity, watch, other, theirs


class Clock:
    """Replaces the ``time`` of activities."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def look_late(
    clock: Clock, activity: Activity, watch: Watchdog, together: tuple[int, ...] = ()
) -> None:
    """Do an action twice: at once, and for so long that it hangs, watched all the time."""
    for looks in (0, 3):
        with activity.action("compute block 3, step 4", "compute", None, together):
            for _ in range(looks):
                clock.now += 200.0
                watch._look_at_itself()


def test_a_rank_that_depends_on_nobody_hangs(clock: Clock) -> None:
    said: list[str] = []
    activity, watch, _, _ = watch_of_two(said)
    look_late(clock, activity, watch)
    cause = watch.cause()
    assert cause is not None
    assert cause.startswith("rank 0 hangs: it has been in compute block 3, step 4 for 200 s")


def test_a_rank_that_waits_for_one_elsewhere_does_not_hang_and_says_what_that_one_does(
    clock: Clock,
) -> None:
    """As one that decodes a long block between two tasks, while the others have begun the next."""
    said: list[str] = []
    activity, watch, other, theirs = watch_of_two(said)
    with theirs.action("decode block 2", "decode"):
        other._exchange(1)
    look_late(clock, activity, watch, (1,))
    assert watch.cause() is None
    (sentence,) = said
    assert sentence.startswith("rank 0 has been in compute block 3, step 4 for 400 s (expected: ")
    assert sentence.endswith("; rank 1 does decode block 2.")


def test_ranks_that_wait_for_one_another_in_the_same_action_hang(clock: Clock) -> None:
    activity, watch, other, theirs = watch_of_two([])
    with theirs.action("compute block 3, step 4", "compute"):
        other._exchange(1)
    look_late(clock, activity, watch, (1,))
    assert watch.cause() is not None


@pytest.mark.parametrize("hangs", [False, True])
def test_devices_hang_together_or_one_waits_for_the_other(clock: Clock, hangs: bool) -> None:
    """The ranks' threads are elsewhere by then: what counts is what the devices have to finish."""
    activity, watch, other, theirs = watch_of_two([])
    if hangs:
        with theirs.action("compute block 3, step 4", "compute"):
            theirs.queued(lambda: False)
    other._exchange(1)
    for done in (True, False):
        with activity.action("compute block 3, step 4", "compute", together=(1,)):
            activity.queued(lambda done=done: done)  # type: ignore[misc]
        watch._look_at_itself()
    clock.now += 200.0
    watch._look_at_itself()
    assert (watch.cause() is not None) == hangs


def test_what_everyone_did_last_is_told() -> None:
    activity, watch, other, theirs = watch_of_two([])
    with activity.action("compute block 3, step 4", "compute"):
        watch._exchange(1)
    with theirs.action("receive hop of block 3, step 4 from rank 0", "receive", 0):
        other._exchange(1)
    assert watch.last_actions() == [
        "rank 0: compute block 3, step 4",
        "rank 1: receive hop of block 3, step 4 from rank 0",
    ]


def watches(count: int) -> list[Watchdog]:
    """Return the watchdogs of some ranks, which watch."""
    store = HashStore()
    made = [Watchdog(store, rank, count, 60.0) for rank in range(count)]
    for watch in made:
        watch.start()
    return made


def test_rank_0_leaves_as_the_last() -> None:
    first, *others = watches(3)
    leaving = threading.Thread(target=first.close, args=(60.0,))
    leaving.start()
    for other in others:
        leaving.join(0.1)
        assert leaving.is_alive(), "rank 0 has left before another one"
        other.close()
    leaving.join(10.0)
    assert not leaving.is_alive()


def test_rank_0_waits_for_nobody_who_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_HEARD", 0.1)
    first, other = watches(2)
    first.fail("rank 1 is gone")
    leaving = threading.Thread(target=first.close, args=(60.0,))
    leaving.start()
    leaving.join(10.0)
    assert not leaving.is_alive()
    other.close()
