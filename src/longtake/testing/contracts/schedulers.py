"""Block scheduler contract suite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise
from typing import ClassVar

import pytest

from longtake.errors import ConfigurationError
from longtake.schedulers import BlockScheduler
from longtake.task import FrameRange, Neighbor, Task

VIDEOS = [(1, 1), (1, 3), (2, 4), (5, 1), (7, 3), (7, 6), (16, 4), (19, 5)]
"""Latent frames and denoising steps: with small blocks, one block or many, whole ones or not."""

videos = pytest.mark.parametrize(("latent_frames", "steps"), VIDEOS)


class BlockSchedulerContract(ABC):
    """What every block scheduler must do. Use small blocks (2 to 6 latent frames)."""

    endless: ClassVar[bool] = True
    """Whether the scheduler can plan an endless video; it must refuse one where it cannot."""

    @abstractmethod
    def scheduler(self) -> BlockScheduler:
        """Return a new scheduler."""

    @videos
    def test_blocks_tile_the_video_exactly(self, latent_frames: int, steps: int) -> None:
        """No gap, no overlap, no empty block, exactly as many frames as asked for."""
        blocks = list(self.scheduler().blocks(latent_frames))
        assert blocks[0].start == 0, "the first block must start at latent frame 0"
        assert all(len(block) for block in blocks), "a block must hold at least one latent frame"
        assert all(a.stop == b.start for a, b in pairwise(blocks)), f"{blocks} do not tile"
        assert blocks[-1].stop == latent_frames, "the last block must end with the video"

    @videos
    def test_every_block_runs_every_step_once_in_order(
        self, latent_frames: int, steps: int
    ) -> None:
        """Every (block, step) once; a block's steps in order; its last one marked as such."""
        blocks, tasks = self._plan(latent_frames, steps)
        for block, frames in enumerate(blocks):
            own = [task for task in tasks if task.block == block]
            assert [task.step for task in own] == list(range(steps)), f"steps of block {block}"
            assert {task.frames for task in own} == {frames}, "task.frames must be its block's"
            assert [task.last_step for task in own] == [False] * (steps - 1) + [True]
        assert len(tasks) == len(blocks) * steps, "there are tasks of blocks that do not exist"

    @videos
    def test_tasks_are_numbered_in_serial_order(self, latent_frames: int, steps: int) -> None:
        """Messages and actions are keyed by ``index``."""
        _, tasks = self._plan(latent_frames, steps)
        assert [task.index for task in tasks] == list(range(len(tasks)))

    @videos
    def test_blocks_finish_in_the_order_of_time(self, latent_frames: int, steps: int) -> None:
        """A decoder takes the blocks as they finish."""
        blocks, tasks = self._plan(latent_frames, steps)
        finished = [task.block for task in tasks if task.last_step]
        assert finished == list(range(len(blocks)))

    @videos
    def test_an_iteration_runs_a_block_at_most_once(self, latent_frames: int, steps: int) -> None:
        """Iterations follow one another, each running every block in flight at most once."""
        _, tasks = self._plan(latent_frames, steps)
        assert all(a.iteration <= b.iteration for a, b in pairwise(tasks))
        runs = Counter((task.iteration, task.block) for task in tasks)
        assert max(runs.values()) == 1, f"{runs.most_common(1)} in one iteration"

    @videos
    def test_neighbors_are_named_where_they_exist(self, latent_frames: int, steps: int) -> None:
        """``before`` is the preceding block, ``after`` the following one, at every step."""
        blocks, tasks = self._plan(latent_frames, steps)
        for task in tasks:
            before = None if task.before is None else task.before.block
            after = None if task.after is None else task.after.block
            assert before == (task.block - 1 if task.block else None), task
            assert after == (task.block + 1 if task.block + 1 < len(blocks) else None), task

    @videos
    def test_steps_done_is_what_replaying_the_order_shows(
        self, latent_frames: int, steps: int
    ) -> None:
        """The version of the neighbor's latents that a task names is the one that stands then."""
        _, tasks = self._plan(latent_frames, steps)
        done: Counter[int] = Counter()
        for task in tasks:
            for neighbor in _neighbors(task):
                assert neighbor.steps_done == done[neighbor.block], (
                    f"{task} says that block {neighbor.block} has {neighbor.steps_done} steps "
                    f"behind it, but the order of tasks gives {done[neighbor.block]}"
                )
            done[task.block] += 1

    @videos
    def test_runs_step_is_what_the_neighbor_runs_in_the_same_iteration(
        self, latent_frames: int, steps: int
    ) -> None:
        """The following block has run it before the task, the preceding one runs it after."""
        _, tasks = self._plan(latent_frames, steps)
        place = {(task.iteration, task.block): at for at, task in enumerate(tasks)}
        for at, task in enumerate(tasks):
            for neighbor in _neighbors(task):
                other = place.get((task.iteration, neighbor.block))
                step = None if other is None else tasks[other].step
                assert neighbor.runs_step == step, f"{task}: block {neighbor.block} runs {step}"
                if other is not None:
                    assert (other < at) == (neighbor.block > task.block), (
                        f"{task}: newer blocks run before older ones in an iteration"
                    )

    @videos
    def test_windows_are_made_of_adjacent_frames(self, latent_frames: int, steps: int) -> None:
        """``frames`` are the neighbor's nearest frames, ``sees`` the task's own nearest ones."""
        blocks, tasks = self._plan(latent_frames, steps)
        for task in tasks:
            if task.before is not None:
                assert task.before.frames.stop == task.before.sees.start == task.frames.start
            if task.after is not None:
                assert task.after.frames.start == task.after.sees.stop == task.frames.stop
            for neighbor in _neighbors(task):
                neighbor.frames.within(blocks[neighbor.block])  # raises where it is not
                neighbor.sees.within(task.frames)

    @videos
    def test_neighbors_agree_on_what_each_sees(self, latent_frames: int, steps: int) -> None:
        """What a task says that its neighbor sees is what the neighbor says it sees."""
        _, tasks = self._plan(latent_frames, steps)
        seen = {(t.block, n.block): n.frames for t in tasks for n in _neighbors(t)}
        for task in tasks:
            for neighbor in _neighbors(task):
                assert neighbor.frames == seen[task.block, neighbor.block], "changes with the step"
                assert neighbor.sees == seen[neighbor.block, task.block], task

    @videos
    def test_blocks_in_flight_is_the_largest_number_at_once(
        self, latent_frames: int, steps: int
    ) -> None:
        """Neither too small (memory would not suffice) nor too large (it would be wasted)."""
        blocks, tasks = self._plan(latent_frames, steps)
        places = [[at for at, t in enumerate(tasks) if t.block == b] for b in range(len(blocks))]
        most = max(sum(p[0] <= at <= p[-1] for p in places) for at in range(len(tasks)))
        assert self.scheduler().blocks_in_flight(latent_frames, steps) == most

    @videos
    def test_planning_is_pure(self, latent_frames: int, steps: int) -> None:
        """Two plans read in turns from one scheduler do not disturb each other."""
        scheduler = self.scheduler()
        pairs = zip(
            scheduler.tasks(latent_frames, steps),
            scheduler.tasks(latent_frames, steps),
            strict=True,
        )
        assert all(a == b for a, b in pairs)

    def test_an_endless_video_is_planned_lazily_or_refused(self) -> None:
        """``None`` gives an endless plan, or a sentence that says why not."""
        scheduler = self.scheduler()
        if not self.endless:
            for plan in (scheduler.blocks, lambda frames: scheduler.tasks(frames, 2)):
                with pytest.raises(ConfigurationError, match="endless"):
                    next(iter(plan(None)))
            return
        assert len(list(islice(scheduler.blocks(None), 100))) == 100
        tasks = list(islice(scheduler.tasks(None, 3), 300))
        assert len(tasks) == 300
        assert all(task.after is not None for task in tasks), "an endless video has no last block"
        assert scheduler.blocks_in_flight(None, 3) <= scheduler.blocks_in_flight(1000, 3)

    @videos
    def test_an_endless_video_begins_like_a_finite_one(
        self, latent_frames: int, steps: int
    ) -> None:
        """Only the last two blocks of a finite video know where it ends."""
        if not self.endless:
            pytest.skip("this scheduler plans no endless video")
        blocks, tasks = self._plan(latent_frames, steps)
        begin = len(blocks) - 2
        endless = self.scheduler().tasks(None, steps)
        # Numbers apart: tasks of later blocks, which only the endless video has, come between.
        wanted = [replace(task, index=0) for task in tasks if task.block < begin]
        found = (replace(task, index=0) for task in endless if task.block < begin)
        assert list(islice(found, len(wanted))) == wanted
        cut = islice(self.scheduler().blocks(None), len(blocks) - 1)
        assert list(cut) == blocks[:-1]

    def _plan(self, latent_frames: int, steps: int) -> tuple[list[FrameRange], list[Task]]:
        scheduler = self.scheduler()
        return list(scheduler.blocks(latent_frames)), list(scheduler.tasks(latent_frames, steps))


def _neighbors(task: Task) -> list[Neighbor]:
    return [neighbor for neighbor in (task.before, task.after) if neighbor is not None]
