"""Worker threads: order, bounds, errors, ends."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import pytest

from longtake.framework.engine.worker import Worker

MOST = 3
SOON = 30.0


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker("test-worker", MOST)
    yield made
    made.close()
    assert "test-worker" not in {thread.name for thread in threading.enumerate()}


class Gate:
    """A job that waits until it is let through."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.open.wait(SOON)


def fail() -> None:
    raise OSError(28, "No space left on device")


def test_jobs_are_done_in_order_in_another_thread(worker: Worker) -> None:
    done: list[tuple[int, str]] = []
    for number in range(20):
        worker.give(lambda n=number: done.append((n, threading.current_thread().name)))  # type: ignore[misc]
    worker.wait()
    assert done == [(number, "test-worker") for number in range(20)]


def test_whoever_gives_goes_on_meanwhile(worker: Worker) -> None:
    gate = Gate()
    worker.give(gate)
    assert gate.begun.wait(SOON)  # reached while the job still waits
    gate.open.set()
    worker.wait()


def test_jobs_that_wait_are_bounded(worker: Worker) -> None:
    gate, done, given = Gate(), list[int](), threading.Semaphore(0)
    worker.give(gate)

    def give_many() -> None:
        for number in range(5):
            worker.give(lambda n=number: done.append(n))  # type: ignore[misc]
            given.release()

    giver = threading.Thread(target=give_many)
    giver.start()
    for _ in range(MOST - 1):
        assert given.acquire(timeout=SOON)
    # The gate holds the first place: the third of the five has none, however long one waits.
    assert not given.acquire(timeout=0.1)
    assert done == []
    gate.open.set()
    giver.join(SOON)
    worker.wait()
    assert done == list(range(5))


def test_an_error_is_raised_once_and_drops_the_jobs_behind_it(worker: Worker) -> None:
    gate, done = Gate(), list[str]()
    worker.give(gate)
    worker.give(fail)
    worker.give(lambda: done.append("behind"))
    gate.open.set()
    with pytest.raises(OSError, match="No space left on device"):
        worker.wait()
    worker.give(lambda: done.append("later"))
    worker.wait()
    assert done == ["later"]


def test_an_error_is_raised_where_a_job_waits_for_room(worker: Worker) -> None:
    gate = Gate()

    def fail_later() -> None:
        gate()
        fail()

    worker.give(fail_later)
    for _ in range(MOST - 1):
        worker.give(lambda: None)
    opener = threading.Timer(0.05, gate.open.set)
    opener.start()
    with pytest.raises(OSError, match="No space left on device"):
        worker.give(lambda: None)  # hears why there is room
    opener.join()


def test_the_end_waits_for_jobs_and_raises_nothing() -> None:
    worker, gate, done = Worker("test-end", MOST), Gate(), list[str]()
    worker.give(gate)
    worker.give(lambda: done.append("last"))
    worker.give(fail)
    gate.open.set()
    worker.close()
    assert done == ["last"]
    Worker("test-idle", MOST).close()


def test_what_a_job_holds_is_freed_when_it_is_done(worker: Worker) -> None:
    gate = Gate()
    held = weakref.ref(gate)
    worker.give(gate)
    gate.open.set()
    del gate
    worker.wait()
    worker.give(lambda: None)  # its turn comes after the thread has let go of the one before
    worker.wait()
    assert held() is None
