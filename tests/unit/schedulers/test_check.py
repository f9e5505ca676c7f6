"""Check of a schedule: wrong ones are refused by it, and by the contract suite without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any, TypeAlias

import pytest
from _pytest.outcomes import OutcomeException
from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.schedulers import (
    Autoregressive,
    BlockScheduler,
    CascadeQueue,
    ContextWindows,
    DiffusionForcing,
    Extend,
    FifoQueue,
    FrameQueue,
    FullSequence,
    RollingWindow,
)
from longtake.schedulers.check import checked
from longtake.task import Enter, FrameRange, Leave, Run, Seen, Task, Video
from longtake.testing.contracts import BlockSchedulerContract
from longtake.testing.contracts.schedulers import VIDEOS

Spoil: TypeAlias = Callable[[list[Task]], list[Task]]

RIGHT: list[BlockScheduler] = [
    FifoQueue(3, 2, stride=2),
    FullSequence(),
    Autoregressive(2),
    CascadeQueue(2),
    CascadeQueue(3, stride=2),
    RollingWindow(2),
    DiffusionForcing(2, 1, 12),
    DiffusionForcing(2, 3, 6),
    Extend(4, 2, noised=0.1),
    ContextWindows(4, 2, "uniform", "overlap-linear", 2),
    ContextWindows(4, 1, "looped", "flat"),
]


class Spoiled(BlockScheduler):
    """A right schedule with something wrong in it."""

    def __init__(self, inner: BlockScheduler, spoil: Spoil) -> None:
        self.inner = inner
        self.spoil = spoil

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        return self.inner.blocks(latent_frames)

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        if video.latent_frames is None:  # what is wrong with finite ones is enough
            return self.inner.tasks(video)
        return iter(self.spoil(list(self.inner.tasks(video))))

    @override
    def blocks_in_flight(self, video: Video) -> int:
        return self.inner.blocks_in_flight(video)


def every(change: Callable[[Task], Task], tasks: list[Task]) -> list[Task]:
    return [change(task) for task in tasks]


def runs(change: Callable[[Run], dict[str, Any]], task: Task) -> Task:
    return replace(task, runs=tuple(replace(run, **change(run)) for run in task.runs))


def sees(change: Callable[[Seen], dict[str, Any]], task: Task) -> Task:
    return replace(task, sees=tuple(replace(seen, **change(seen)) for seen in task.sees))


def enters(change: Callable[[Enter], dict[str, Any]], task: Task) -> Task:
    return replace(task, enters=tuple(replace(one, **change(one)) for one in task.enters))


def renumbered(tasks: list[Task]) -> list[Task]:
    return [replace(task, index=number, iteration=number) for number, task in enumerate(tasks)]


def newest_block_first(tasks: list[Task]) -> list[Task]:
    """Run all of a block, then all of the one before it; none sees another."""
    last_first = sorted(tasks, key=lambda task: -task.block)
    return renumbered([replace(task, sees=(), later=()) for task in last_first])


def enter_at_once(tasks: list[Task]) -> list[Task]:
    """Let all blocks enter in order of time, and finish the newest one first."""
    enters = tuple(enter for task in tasks for enter in task.enters)
    first, *rest = newest_block_first([replace(task, enters=()) for task in tasks])
    return [replace(first, enters=enters), *rest]


def two_steps_swapped(tasks: list[Task]) -> list[Task]:
    """A block runs step 1 before step 0."""
    return [
        runs(lambda run: {"step": (1, 0, *range(2, 99))[run.step] if len(tasks) > 1 else 0}, task)
        for task in tasks
    ]


def seen_too_early(tasks: list[Task]) -> list[Task]:
    """The first clip sees the frame behind it, which is none's yet."""
    seen = Seen(frames=FrameRange(4, 5), version=0)
    return [replace(tasks[0], sees=(seen,)), *tasks[1:]]


def entering_twice(tasks: list[Task]) -> list[Task]:
    return [tasks[0], *(replace(task, enters=tasks[0].enters) for task in tasks[1:2]), *tasks[2:]]


def without_the_last_task(tasks: list[Task]) -> list[Task]:
    return tasks[:-1] or tasks


def never_weighed(run: Run) -> dict[str, Any]:
    return {"weights": (0.0,) * len(run.frames)}


def held_twice(run: Run) -> dict[str, Any]:
    weights = run.weights and (*run.weights, run.weights[0])
    return {"frames": (*run.frames, run.frames[0]), "weights": weights, "positions": None}


def seeing_own(task: Task) -> Task:
    own = FrameRange.around(task.own)
    return replace(task, sees=(Seen(frames=own, version=task.step),))


WRONG: dict[str, tuple[BlockScheduler, Spoil, str]] = {
    "numbered from one": (
        FifoQueue(3, 2),
        partial(every, lambda task: replace(task, index=task.index + 1)),
        r"task 1 .* is number 0 of the schedule",
    ),
    "iterations go back": (
        FifoQueue(3, 2),
        partial(every, lambda task: replace(task, iteration=9 - task.index)),
        "is of iteration 8, after one of 9",
    ),
    "blocks enter out of order": (
        Extend(3, 0),
        newest_block_first,
        "lets block [1-9] enter, but the next one in the order of time is 0",
    ),
    "blocks finish out of order": (
        Extend(3, 0),
        enter_at_once,
        "finishes block [1-9] before block 0; blocks finish in the order of time",
    ),
    "two steps swapped": (
        FullSequence(),
        two_steps_swapped,
        "denoises block 0 at step 1, but it has 0 of 4 steps behind it",
    ),
    "a step left out": (
        Autoregressive(2),
        lambda tasks: renumbered([task for task in tasks if task.step != 1]),
        "denoises block 0 at step 2, but it has 1 of 4 steps behind it",
    ),
    "a block not stepped": (
        FullSequence(),
        partial(every, partial(runs, lambda run: {"advances": run.step != 1, "weights": (1.0,)})),
        "has 1 weights for 16 frames",
    ),
    "a block that has not entered is seen": (
        Extend(4, 2),
        seen_too_early,
        "sees latent frame 4 with 0 steps behind it, but it has not entered",
    ),
    "seen at another version": (
        FifoQueue(3, 2),
        partial(every, partial(sees, lambda seen: {"version": seen.version - 1})),
        "sees latent frame 3 with 0 steps behind it, but it has 1",
    ),
    "entering twice": (
        Autoregressive(2),
        entering_twice,
        "lets block 0 enter, which has entered before",
    ),
    "never entering": (
        Autoregressive(2),
        partial(every, lambda task: replace(task, enters=())),
        "denoises block 0, which has not entered",
    ),
    "entering half": (
        FullSequence(),
        partial(
            every,
            partial(enters, lambda one: {"frames": FrameRange(0, len(one.frames) // 2)}),
        ),
        "lets block 0 enter with latent frames 0:8, but it is cut as 0:16",
    ),
    "the end is missing": (
        Autoregressive(2),
        without_the_last_task,
        r"ends after \d+ tasks, but block 7 has 3 of 4 steps behind it",
    ),
    "weights missing": (
        ContextWindows(4, 2),
        partial(every, partial(runs, lambda run: {"weights": None})),
        "one of several windows of its step, but has no weights",
    ),
    "weights of nothing": (
        ContextWindows(4, 2),
        partial(every, partial(runs, never_weighed)),
        "no window of step 0 weighs its latent frame 0",
    ),
    "a frame twice": (
        ContextWindows(4, 2),
        partial(every, partial(runs, held_twice)),
        "denoises latent frame 0 twice",
    ),
    "own frames seen": (
        Autoregressive(2),
        partial(every, lambda task: seeing_own(task) if task.runs else task),
        "sees latent frame 0, which it denoises or leaves itself",
    ),
    "seen out of order": (
        DiffusionForcing(2, 2, 6),
        partial(every, lambda task: replace(task, sees=task.sees[::-1])),
        "does not list what it sees in the order of time",
    ),
    "given up and seen": (
        Extend(4, 2),
        partial(every, lambda task: replace(task, later=())),
        "sees the finished latent frame 2, which the task before it did not list",
    ),
    "given up and left": (
        Autoregressive(2),
        partial(every, lambda task: replace(task, left_later=())),
        "leaves the keys and values of the finished latent frame 0, which the task before",
    ),
    "left unfinished": (
        Autoregressive(2),
        lambda tasks: [replace(t, leaves=(Leave(frames=FrameRange(0, 3)),)) for t in tasks],
        "leaves the keys and values of latent frame 2, which it does not denoise and which has not",
    ),
    "the last step not marked": (
        FullSequence(),
        partial(every, partial(runs, lambda run: {"last_step": False})),
        "does not say that block 0 is finished after step 3",
    ),
    "another block's frames": (
        FullSequence(),
        partial(every, partial(runs, lambda run: {"block_frames": FrameRange(0, 99)})),
        "says that block 0 has latent frames 0:99, but it entered with 0:16",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_schedule_is_refused_with_its_task(name: str) -> None:
    inner, spoil, message = WRONG[name]
    with pytest.raises(ConfigurationError, match=message) as refused:
        list(checked(Spoiled(inner, spoil), Video(16, 4)))
    assert "Spoiled" in str(refused.value)


@pytest.mark.parametrize("name", WRONG)
def test_the_contract_suite_finds_a_wrong_schedule_by_itself(name: str) -> None:
    """Its tests share no code with the check."""
    inner, spoil, _ = WRONG[name]
    assert failures(inner, lambda tasks: tasks) == []
    assert failures(inner, spoil)


def failures(inner: BlockScheduler, spoil: Spoil) -> list[str]:
    """Return the suite's tests that find something wrong.

    The check's own aside, and that of a video that is cut: it runs whatever the schedule says.
    """

    class Suite(BlockSchedulerContract):
        ends_alike = 4  # blocks of the window that DiffusionForcing moves, and one more
        endless = not isinstance(inner, FullSequence | ContextWindows)

        def scheduler(self) -> BlockScheduler:
            return Spoiled(inner, spoil)

    others = ("test_preflight", "test_a_video_goes_on")
    names = [name for name in dir(Suite) if name.startswith("test_")]
    names = [name for name in names if not name.startswith(others)]
    return [name for name in names if any(fails(getattr(Suite(), name), *one) for one in VIDEOS)]


def fails(test: Callable[..., None], latent_frames: int, steps: int) -> bool:
    arguments = (latent_frames, steps) if signature(test).parameters else ()
    try:
        test(*arguments)
    except OutcomeException:  # skipped
        return False
    except (AssertionError, KeyError, ValueError):
        return True
    return False


@pytest.mark.parametrize("scheduler", RIGHT, ids=lambda one: type(one).__name__)
def test_right_schedules_pass_unchanged(scheduler: BlockScheduler) -> None:
    for latent_frames, steps in VIDEOS:
        for changes in ((), (3,), (2, 3, 7)):
            video = Video(latent_frames, steps, changes)
            assert list(checked(scheduler, video)) == list(scheduler.tasks(video))


@pytest.mark.parametrize("known", [0, 2])
@pytest.mark.parametrize("lookahead", [True, False])
def test_a_queue_of_frames_passes_from_a_clip_and_from_known_frames(
    known: int, lookahead: bool
) -> None:
    queue = FrameQueue(2, 2, lookahead)
    for latent_frames in (1, 3, 9):
        video = Video(latent_frames, 4, known=known)
        assert list(checked(queue, video)) == list(queue.tasks(video))


def test_copies_of_what_is_not_there_are_refused() -> None:
    """Of a queue that starts from a clip which it then does not make."""
    queue = FrameQueue(2, 2)
    unmade = Spoiled(queue, lambda tasks: renumbered(tasks[4:]))
    with pytest.raises(ConfigurationError, match="copies latent frame -5, which has not entered"):
        list(checked(unmade, Video(3, 4)))
    given = Spoiled(queue, lambda _: list(queue.tasks(Video(3, 4, known=2))))
    with pytest.raises(ConfigurationError, match="of its 2 latent frames only 0 are known"):
        list(checked(given, Video(3, 4)))


def test_the_check_is_lazy() -> None:
    tasks = checked(Autoregressive(2), Video(None, 4))
    assert [next(tasks).index for _ in range(30)] == list(range(30))
