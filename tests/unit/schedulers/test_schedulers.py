"""Block schedulers: the contract for each of ours, and their own promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile

import pytest

from longtake.errors import ConfigurationError
from longtake.schedulers import Autoregressive, BlockScheduler, FifoQueue, FullSequence
from longtake.schedulers.cascade_queue import CascadeQueue
from longtake.schedulers.frame_queue import FrameQueue
from longtake.schedulers.rolling_window import RollingWindow
from longtake.task import FrameRange, Seen, Video
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


class TestAutoregressive(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return Autoregressive(3)


class TestRollingWindow(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return RollingWindow(3)


class TestCascadeQueue(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return CascadeQueue(3)


class TestCascadeQueueWithStride2(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return CascadeQueue(3, stride=2)


class TestCascadeQueueWithOneBlockInFlight(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return CascadeQueue(3, stride=7)


class TestFrameQueue(BlockSchedulerContract):
    """As many steps as frames in the queue, whatever is asked for."""

    def scheduler(self) -> BlockScheduler:
        return FrameQueue(2, 2)

    def steps_of(self, steps: int) -> int:
        return 4


class TestFrameQueueWithoutLookahead(BlockSchedulerContract):
    def scheduler(self) -> BlockScheduler:
        return FrameQueue(4, 1, lookahead=False)

    def steps_of(self, steps: int) -> int:
        return 4


def order(scheduler: BlockScheduler, latent_frames: int, steps: int) -> str:
    """Write a schedule as ``block.step``, one group per iteration."""
    groups: dict[int, list[str]] = {}
    for task in scheduler.tasks(Video(latent_frames, steps)):
        groups.setdefault(task.iteration, []).append(f"{task.block}.{task.step}")
    return " | ".join(" ".join(group) for group in groups.values())


def test_the_paper_queue_runs_newest_first() -> None:
    golden = "0.0 | 1.0 0.1 | 2.0 1.1 0.2 | 2.1 1.2 | 2.2"
    assert order(FifoQueue(2, 1), 7, 3) == golden


def test_a_causal_block_is_finished_and_passed_clean_before_the_next() -> None:
    """Step 2 of 2 is the clean pass; the last block has none."""
    assert order(Autoregressive(2), 5, 2) == "0.0 | 0.1 | 0.2 | 1.0 | 1.1 | 1.2 | 2.0 | 2.1"


def test_a_cascade_runs_oldest_first() -> None:
    golden = "0.0 | 0.1 1.0 | 0.2 1.1 2.0 | 1.2 2.1"
    assert order(CascadeQueue(2), 5, 2) == golden


def test_a_cascade_of_one_block_in_flight_is_one_block_after_another() -> None:
    """The same tasks, but for the number of the iteration."""
    for frames, steps in ((5, 2), (16, 3), (17, 4)):
        video = Video(frames, steps, prompt_changes=(4, 9))
        found = [replace(t, iteration=0) for t in CascadeQueue(2, steps + 1).tasks(video)]
        assert found == [replace(t, iteration=0) for t in Autoregressive(2).tasks(video)]


def test_a_rolling_window_takes_all_its_blocks_a_step_further() -> None:
    windows = [
        " ".join(f"{run.block}.{run.step}" for run in task.runs) or f"clean {task.block}"
        for task in RollingWindow(2).tasks(Video(7, 3))
    ]
    assert windows == [
        "0.0",
        "0.1 1.0",
        "0.2 1.1 2.0",
        "clean 0",
        "1.2 2.1 3.0",
        "clean 1",
        "2.2 3.1",
        "clean 2",
        "3.2",
    ]


def test_a_frame_queue_runs_noisiest_first_and_sees_the_cleaner_half() -> None:
    """A clip is made first, and its frames begin the queue, each at the level of its place."""
    tasks = list(FrameQueue(2, 2).tasks(Video(3, 4)))
    assert [(task.own, task.step) for task in tasks[:4]] == [((-5, -4), step) for step in range(4)]
    assert [(one.frames.start, one.version, one.source) for one in tasks[4].enters] == [
        (-3, 4, (-5,)),
        (-2, 3, (-5,)),
        (-1, 2, (-5,)),
        (0, 1, (-5,)),
        (1, 0, (-4,)),
    ]
    iteration = [(task.own, task.step, task.sees[0]) for task in tasks[4:8]]
    assert iteration == [
        ((1,), 0, Seen(frames=FrameRange(0, 1), version=1)),
        ((0,), 1, Seen(frames=FrameRange(-1, 0), version=2)),
        ((-1,), 2, Seen(frames=FrameRange(-2, -1), version=3)),
        ((-2,), 3, Seen(frames=FrameRange(-3, -2), version=4, told=3)),
    ]
    assert [one.frames for one in tasks[8].enters] == [FrameRange(2, 3)]
    assert [run.block for task in tasks for run in task.finished] == [0, 1, 2]


def test_a_frame_queue_starts_from_frames_that_are_known() -> None:
    tasks = list(FrameQueue(2, 2).tasks(Video(3, 4, known=2)))
    assert tasks[0].own == (1,)
    clip = tasks[0].enters[0]
    assert (str(clip.frames), clip.version, clip.source) == ("-5:-3", 4, None)


def test_a_frame_queue_fixes_the_number_of_steps() -> None:
    with pytest.raises(ConfigurationError, match=r"which is 4, not 6: set model\.steps to 4"):
        next(FrameQueue(2, 2).tasks(Video(8, 6)))
    with pytest.raises(
        ConfigurationError, match=r"clip_frames is 3.*choose 4, or lookahead: false"
    ):
        FrameQueue(3, 2)
    with pytest.raises(ConfigurationError, match="partitions 0; each is 1 or more"):
        FrameQueue(2, 0)


@pytest.mark.parametrize("kind", [Autoregressive, RollingWindow, CascadeQueue])
def test_equal_blocks_hold_a_frame_at_least(kind: Callable[[int], BlockScheduler]) -> None:
    with pytest.raises(ConfigurationError, match="block_frames is 0, but a block holds at least 1"):
        kind(0)


def test_a_stride_lets_blocks_enter_later() -> None:
    golden = "0.0 | 0.1 | 1.0 0.2 | 1.1 | 2.0 1.2 | 2.1 | 2.2"
    assert order(FifoQueue(2, 1, stride=2), 7, 3) == golden
    assert order(FifoQueue(2, 1, stride=3), 5, 2) == "0.0 | 0.1 | 1.0 | 1.1"


def test_the_first_block_is_longer_and_the_last_one_takes_the_rest() -> None:
    blocks = list(FifoQueue(8, 8).blocks(45))
    assert [str(block) for block in blocks] == ["0:16", "16:24", "24:32", "32:40", "40:45"]


def test_neighbors_of_one_task_in_the_middle() -> None:
    task = next(t for t in FifoQueue(4, 2).tasks(Video(40, 6)) if (t.block, t.step) == (3, 2))
    assert task.own == (14, 15, 16, 17)
    assert [run.block_frames for run in task.runs] == [FrameRange(14, 18)]
    # Block 2 runs its step 3 after it, block 4 has just run its step 1.
    assert [(str(seen.frames), seen.version) for seen in task.sees] == [("12:14", 3), ("18:20", 2)]
    assert [(str(leave.frames), leave.reader) for leave in task.leaves] == [
        ("14:16", 2),
        ("16:18", 4),
    ]


def test_larger_strides_hold_fewer_blocks_and_finish_the_first_one_after_as_many_tasks() -> None:
    before_first = []
    for stride in (1, 2, 4, 8):
        scheduler = FifoQueue(8, 8, stride)
        assert scheduler.blocks_in_flight(Video(None, 8)) == 8 // stride
        tasks = scheduler.tasks(Video(None, 8))
        before_first.append(1 + sum(1 for _ in takewhile(lambda t: not t.finished, tasks)))
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
