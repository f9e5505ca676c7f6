"""Block scheduler contract suite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise
from typing import ClassVar

import pytest

from longtake.caches import NoCache
from longtake.errors import ConfigurationError
from longtake.noise import Independent
from longtake.schedulers import BlockScheduler
from longtake.schedulers.check import checked
from longtake.task import FrameRange, Task, Video
from longtake.testing.resumption import assert_goes_on
from longtake.testing.tiny.base import TinyCase

VIDEOS = [(1, 1), (1, 3), (2, 4), (5, 1), (7, 3), (7, 6), (16, 4), (19, 5)]
"""Latent frames and denoising steps: with small blocks, one block or many, whole ones or not."""

videos = pytest.mark.parametrize(("latent_frames", "steps"), VIDEOS)


class BlockSchedulerContract(ABC):
    """What every block scheduler must do. Use small blocks (2 to 6 latent frames)."""

    endless: ClassVar[bool] = True
    """Whether the scheduler can plan an endless video; it must refuse one where it cannot."""
    ends_alike: ClassVar[int] = 2
    """How many of a finite video's last blocks may know where it ends."""

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
        """Every (block, step) is stepped once; a block's steps in order; its last one marked."""
        blocks, tasks = self._plan(latent_frames, steps)
        steps = tasks[0].steps
        for block, frames in enumerate(blocks):
            own = [run for task in tasks for run in task.runs if run.block == block]
            stepped = [run for run in own if run.advances]
            assert [run.step for run in stepped] == list(range(stepped[0].step, steps))
            assert {run.block_frames for run in own} == {frames}, "block_frames are the block's"
            last = [run.last_step for run in stepped]
            assert last == [False] * (len(stepped) - 1) + [True]
        known = set(range(len(blocks)))
        seen = {run.block for task in tasks for run in task.runs if run.block >= 0}
        assert seen == known, "there are tasks of blocks that do not exist"

    @videos
    def test_windows_of_one_step_cover_their_block(self, latent_frames: int, steps: int) -> None:
        """Each frame is denoised at each step, with weights that can be divided by."""
        _, tasks = self._plan(latent_frames, steps)
        weights: Counter[tuple[int, int, int]] = Counter()
        for task in tasks:
            for run in task.runs:
                assert len(set(run.frames)) == len(run.frames), f"{task} holds a frame twice"
                given = run.weights or (1.0,) * len(run.frames)
                alone = run.advances and set(run.frames) == set(run.block_frames.each)
                assert run.weights is not None or alone, f"{task}: several windows, no weights"
                for frame, weight in zip(run.frames, given, strict=True):
                    weights[run.block, run.step, frame] += weight  # type: ignore[assignment]
                if run.advances:
                    done = [weights[run.block, run.step, f] for f in run.block_frames.each]
                    assert min(done) > 1e-6, f"{task}: a frame that no window of the step weighs"

    @videos
    def test_preflight_finds_nothing_wrong(self, latent_frames: int, steps: int) -> None:
        """Also where the prompt changes, and the schedule may pass frames anew."""
        steps = self.steps_of(steps)
        for changes in ((), (1,), (2, 3, 7)):
            video = Video(latent_frames, steps, changes)
            assert list(checked(self.scheduler(), video)) == list(self.scheduler().tasks(video))

    @videos
    def test_tasks_are_numbered_in_serial_order(self, latent_frames: int, steps: int) -> None:
        """Messages and actions are keyed by ``index``."""
        _, tasks = self._plan(latent_frames, steps)
        assert [task.index for task in tasks] == list(range(len(tasks)))

    @videos
    def test_blocks_finish_in_the_order_of_time(self, latent_frames: int, steps: int) -> None:
        """A decoder takes the blocks as they finish."""
        blocks, tasks = self._plan(latent_frames, steps)
        finished = [run.block for task in tasks for run in task.finished]
        assert finished == list(range(len(blocks)))

    @videos
    def test_iterations_follow_one_another(self, latent_frames: int, steps: int) -> None:
        """Their numbers never fall."""
        _, tasks = self._plan(latent_frames, steps)
        assert all(a.iteration <= b.iteration for a, b in pairwise(tasks))

    @videos
    def test_blocks_enter_once_before_they_run(self, latent_frames: int, steps: int) -> None:
        """With the task that runs them first, or before; those of the video in order of time."""
        _, tasks = self._plan(latent_frames, steps)
        entered: list[int] = []
        for task in tasks:
            entered += [enter.block for enter in task.enters]
            for run in task.runs:
                assert run.block in entered, f"{task} runs block {run.block}, which is not in"
        assert len(set(entered)) == len(entered), "a block enters twice"
        of_video = [block for block in entered if block >= 0]
        assert of_video == sorted(of_video), "blocks enter in another order than that of time"

    @videos
    def test_versions_are_what_replaying_the_order_shows(
        self, latent_frames: int, steps: int
    ) -> None:
        """The version of the frames that a task sees is the one that stands then."""
        _, tasks = self._plan(latent_frames, steps)
        steps = tasks[0].steps
        version: dict[int, int] = {}
        for task in tasks:
            for enter in task.enters:
                for frame in enter.source or ():
                    assert version[frame] == steps, f"{task} copies a frame that is not finished"
                version.update(dict.fromkeys(enter.frames.each, enter.version))
            for run in task.runs:
                assert {version[f] for f in run.frames} == {run.step}, f"{task}: not at {run.step}"
            for seen in task.sees:
                for frame in seen.frames.each:
                    assert version.get(frame) == seen.version, (
                        f"{task} says that latent frame {frame} has {seen.version} steps behind "
                        f"it, but the order of tasks gives {version.get(frame)}"
                    )
            for leave in task.leaves:
                for frame in set(leave.frames.each).difference(task.own):
                    assert version[frame] == steps, f"{task} leaves a frame that is not finished"
            for run in task.runs:
                if run.advances:
                    version.update(dict.fromkeys(run.block_frames.each, run.step + 1))

    @videos
    def test_what_is_seen_has_been_promised(self, latent_frames: int, steps: int) -> None:
        """Finished frames that a task sees or leaves anew are ``later`` in the tasks before it."""
        _, tasks = self._plan(latent_frames, steps)
        finished: set[int] = set()
        later: set[int] = set()
        left_later: set[int] = set()
        for task in tasks:
            for span in (
                *(seen.frames for seen in task.sees),
                *(one.frames for one in task.leaves),
            ):
                gone = finished.intersection(span.each) - later
                assert not gone, f"{task} sees latent frame {min(gone)}, which it gave up before"
            for leave in task.leaves:
                gone = finished.intersection(leave.frames.each) - left_later
                assert not gone, f"{task} leaves latent frame {min(gone)}, which it gave up before"
            for run in task.runs:
                if run.last_step:
                    finished.update(run.block_frames.each)
            later = {frame for span in task.later for frame in span.each}
            left_later = {frame for span in task.left_later for frame in span.each}

    @videos
    def test_frames_are_own_or_seen(self, latent_frames: int, steps: int) -> None:
        """Never both, and what is seen comes in the order of time."""
        _, tasks = self._plan(latent_frames, steps)
        for task in tasks:
            seen = [frame for one in task.sees for frame in one.frames.each]
            assert seen == sorted(set(seen)), f"{task} sees frames twice or out of order"
            assert not set(seen).intersection(task.own), f"{task} sees its own frames"

    @videos
    def test_blocks_in_flight_is_the_largest_number_at_once(
        self, latent_frames: int, steps: int
    ) -> None:
        """Neither too small (memory would not suffice) nor too large (it would be wasted)."""
        _, tasks = self._plan(latent_frames, steps)
        numbers = {run.block for task in tasks for run in task.runs}
        places = [
            [at for at, t in enumerate(tasks) if any(run.block == b for run in t.runs)]
            for b in numbers
        ]
        most = max(sum(p[0] <= at <= p[-1] for p in places) for at in range(len(tasks)))
        assert self.scheduler().blocks_in_flight(Video(latent_frames, tasks[0].steps)) == most

    @videos
    def test_planning_is_pure(self, latent_frames: int, steps: int) -> None:
        """Two plans read in turns from one scheduler do not disturb each other."""
        scheduler, video = self.scheduler(), Video(latent_frames, self.steps_of(steps))
        pairs = zip(scheduler.tasks(video), scheduler.tasks(video), strict=True)
        assert all(a == b for a, b in pairs)

    def test_an_endless_video_is_planned_lazily_or_refused(self) -> None:
        """``None`` gives an endless plan, or a sentence that says why not."""
        scheduler = self.scheduler()
        video = Video(None, self.steps_of(3))
        if not self.endless:
            for plan in (scheduler.blocks(None), scheduler.tasks(video)):
                with pytest.raises(ConfigurationError, match="endless"):
                    next(iter(plan))
            return
        assert len(list(islice(scheduler.blocks(None), 100))) == 100
        tasks = list(islice(scheduler.tasks(video), 300))
        assert len(tasks) == 300
        most = scheduler.blocks_in_flight(video)
        assert most <= scheduler.blocks_in_flight(Video(1000, video.steps))
        size = [len(task.sees) + len(task.leaves) + len(task.runs) for task in tasks]
        assert max(size) <= 3 * most + 2, "what a task says grows with the video"

    @videos
    def test_an_endless_video_begins_like_a_finite_one(
        self, latent_frames: int, steps: int
    ) -> None:
        """Only the last blocks of a finite video know where it ends."""
        if not self.endless:
            pytest.skip("this scheduler plans no endless video")
        blocks, tasks = self._plan(latent_frames, steps)
        begin = blocks[max(0, len(blocks) - self.ends_alike)].start
        endless = self.scheduler().tasks(Video(None, self.steps_of(steps)))
        # Numbers apart: tasks of later blocks, which only the endless video has, come between.
        wanted = [replace(task, index=0) for task in tasks if _stop(task) <= begin]
        endless = islice(endless, 2 * len(tasks) + 100 * self.steps_of(steps))
        found = (replace(task, index=0) for task in endless if _stop(task) <= begin)
        assert [_own(t) for t in islice(found, len(wanted))] == [_own(t) for t in wanted]
        cut = islice(self.scheduler().blocks(None), len(blocks) - 1)
        assert list(cut) == blocks[:-1]

    def test_a_video_goes_on_where_it_was_cut(self) -> None:
        """A run that has died goes on from what was in flight, to the same bits."""
        case = TinyCase(
            scheduler=self.scheduler(),
            latent_frames=9,
            steps=self.steps_of(3),
            cache=NoCache(),
            noise=Independent(),
            sampler="FlowMatchEulerDiscreteScheduler",
            frame_levels=True,
        )
        assert_goes_on(case)

    def steps_of(self, steps: int) -> int:
        """Return the steps that the scheduler is tried with, for one that fixes their number."""
        return steps

    def _plan(self, latent_frames: int, steps: int) -> tuple[list[FrameRange], list[Task]]:
        scheduler, video = self.scheduler(), Video(latent_frames, self.steps_of(steps))
        return list(scheduler.blocks(latent_frames)), list(scheduler.tasks(video))


def _stop(task: Task) -> int:
    """Return one past the last latent frame of the blocks that a task has to do with."""
    spans = [run.block_frames for run in task.runs] + [enter.frames for enter in task.enters]
    return max(span.stop for span in (*spans, *(leave.frames for leave in task.leaves)))


def _own(task: Task) -> Task:
    """Return a task without its number and what it says of the time after it."""
    return replace(task, index=0, iteration=0, later=(), left_later=())
