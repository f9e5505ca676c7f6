"""Block schedulers: the contract for each of ours, and their own promises."""

from __future__ import annotations

from itertools import takewhile

import pytest

from longtake.errors import ConfigurationError
from longtake.schedulers import BlockScheduler, FifoQueue, FullSequence
from longtake.task import FrameRange
from longtake.testing.contracts import BlockSchedulerContract


class TestFifoQueue(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return FifoQueue(3, 2)


class TestFifoQueueWithFullContext(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return FifoQueue(3, 3)


class TestFifoQueueWithoutContext(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return FifoQueue(2, 0)


class TestFifoQueueOfSingleFrames(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return FifoQueue(1, 1)


class TestFifoQueueWithStride2(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return FifoQueue(3, 2, stride=2)


class TestFifoQueueWithOneBlockInFlight(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return FifoQueue(2, 1, stride=7)


class TestFullSequence(BlockSchedulerContract):
    endless = False

    def scheduler(self) -> BlockScheduler:
        return FullSequence()


def order(scheduler: BlockScheduler, latent_frames: int, steps: int) -> str:
    """Write a schedule as ``block.step``, one group per iteration."""
    groups: dict[int, list[str]] = {}
    for task in scheduler.tasks(latent_frames, steps):
        groups.setdefault(task.iteration, []).append(f"{task.block}.{task.step}")
    return " | ".join(" ".join(group) for group in groups.values())


def test_the_paper_queue_runs_newest_first() -> None:
    golden = "0.0 | 1.0 0.1 | 2.0 1.1 0.2 | 2.1 1.2 | 2.2"
    assert order(FifoQueue(2, 1), 7, 3) == golden


def test_a_stride_lets_blocks_enter_later() -> None:
    golden = "0.0 | 0.1 | 1.0 0.2 | 1.1 | 2.0 1.2 | 2.1 | 2.2"
    assert order(FifoQueue(2, 1, stride=2), 7, 3) == golden
    assert order(FifoQueue(2, 1, stride=3), 5, 2) == "0.0 | 0.1 | 1.0 | 1.1"


def test_the_first_block_is_longer_and_the_last_one_takes_the_rest() -> None:
    blocks = list(FifoQueue(8, 8).blocks(45))
    assert [str(block) for block in blocks] == ["0:16", "16:24", "24:32", "32:40", "40:45"]


def test_neighbors_of_one_task_in_the_middle() -> None:
    task = next(t for t in FifoQueue(4, 2).tasks(40, 6) if (t.block, t.step) == (3, 2))
    assert task.frames == FrameRange(14, 18)
    assert task.before is not None
    assert task.after is not None
    assert (task.before.steps_done, task.before.runs_step) == (3, 3)
    assert (task.after.steps_done, task.after.runs_step) == (2, 1)
    assert (str(task.before.frames), str(task.before.sees)) == ("12:14", "14:16")
    assert (str(task.after.frames), str(task.after.sees)) == ("18:20", "16:18")


def test_larger_strides_hold_fewer_blocks_and_finish_the_first_one_after_as_many_tasks() -> None:
    before_first = []
    for stride in (1, 2, 4, 8):
        scheduler = FifoQueue(8, 8, stride)
        assert scheduler.blocks_in_flight(None, 8) == 8 // stride
        tasks = scheduler.tasks(None, 8)
        before_first.append(1 + sum(1 for _ in takewhile(lambda t: not t.last_step, tasks)))
    assert before_first == [36, 20, 12, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "block_frames is 0"),
        ((4, 5), "context_frames is 5.*0 to 4"),
        ((4, -1), "context_frames is -1"),
        ((4, 4, 0), "stride is 0"),
    ],
)
def test_impossible_queues_are_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FifoQueue(*arguments)
