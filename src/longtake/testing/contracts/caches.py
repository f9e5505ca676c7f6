"""Feature cache contract suite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice

import pytest

from longtake.caches import FeatureCache, FeatureKey, peak_held_frames
from longtake.schedulers import BlockScheduler, FifoQueue, FullSequence
from longtake.task import FrameRange, Task

SCHEDULES: dict[str, tuple[BlockScheduler, int, int]] = {
    "paper": (FifoQueue(3, 2), 23, 5),
    "stride-2": (FifoQueue(3, 2, stride=2), 23, 5),
    "stride-3": (FifoQueue(3, 2, stride=3), 17, 4),
    "one-block-in-flight": (FifoQueue(3, 2, stride=6), 14, 5),
    "context-as-long-as-block": (FifoQueue(3, 3), 18, 4),
    "no-context": (FifoQueue(3, 0), 12, 3),
    "last-block-of-one-frame": (FifoQueue(3, 2), 12, 4),
    "two-blocks": (FifoQueue(3, 2), 8, 3),
    "one-block": (FifoQueue(3, 2), 4, 3),
    "one-step": (FifoQueue(3, 2), 11, 1),
    "full-sequence": (FullSequence(), 9, 3),
}
"""Scheduler, latent frames, denoising steps."""

schedules = pytest.mark.parametrize("name", SCHEDULES)


class FeatureCacheContract(ABC):
    """What every feature cache must do."""

    @abstractmethod
    def cache(self) -> FeatureCache:
        """Return a new feature cache."""

    @schedules
    def test_windows_hold_the_own_frames_and_context_that_exists(self, name: str) -> None:
        """A window may recompute only latents that stand when the task runs."""
        cache = self.cache()
        for task in _tasks(name):
            window = cache.window(task)
            assert window.own == task.frames, f"{task}: the own frames are the block's"
            window.own.within(window.frames)
            known = task.frames
            if task.before is not None:
                known = FrameRange(task.before.frames.start, known.stop)
            if task.after is not None and task.after.steps_done:
                known = FrameRange(known.start, task.after.frames.stop)
            window.frames.within(known)

    @schedules
    def test_every_read_was_left_by_an_earlier_task_and_is_read_once(self, name: str) -> None:
        """Nothing is read that is not there; nothing is left over; a read takes the entry away."""
        held: dict[FeatureKey, FrameRange] = {}
        cache = self.cache()
        for task in _tasks(name):
            window = cache.window(task)
            for key in _reads(cache, task):
                assert key in held, f"{task} reads {key}, which nobody has left or which was read"
                del held[key]
            for key, frames in window.keeps:
                assert key not in held, f"{task} leaves {key} a second time"
                held[key] = frames
        assert not held, f"nobody has read {sorted(held)}"

    @schedules
    def test_entries_are_named_after_the_task_that_leaves_them(self, name: str) -> None:
        """Block and step of the key are the task's; the frames are some of its window."""
        cache = self.cache()
        for task in _tasks(name):
            window = cache.window(task)
            for key, frames in window.keeps:
                assert (key.block, key.step) == (task.block, task.step), f"{task} leaves {key}"
                assert len(frames), f"{task} leaves {key} with no frame"
                frames.within(window.frames)
                frames.within(window.own)

    @schedules
    def test_keys_stand_in_the_order_of_time_without_a_gap(self, name: str) -> None:
        """Frames read before end where the window starts; frames read after start where it ends."""
        held: dict[FeatureKey, FrameRange] = {}
        cache = self.cache()
        for task in _tasks(name):
            window = cache.window(task)
            if window.reads_before is not None:
                assert held[window.reads_before].stop == window.frames.start, task
            if window.reads_after is not None:
                assert held[window.reads_after].start == window.frames.stop, task
            held.update(window.keeps)

    @schedules
    def test_a_window_is_a_function_of_the_task_alone(self, name: str) -> None:
        """All ranks decide alike, whatever tasks they have seen before."""
        tasks, cache = list(_tasks(name)), self.cache()
        forward = [cache.window(task) for task in tasks]
        backward = [cache.window(task) for task in reversed(tasks)][::-1]
        assert forward == backward == [self.cache().window(task) for task in tasks]

    @pytest.mark.parametrize("stride", [1, 2, 5])
    def test_what_is_held_does_not_grow_with_the_length(self, stride: int) -> None:
        """An endless video needs constant memory."""
        steps, scheduler = 4, FifoQueue(3, 2, stride)
        blocks = 2 * scheduler.blocks_in_flight(None, steps)
        peaks = [
            peak_held_frames(self.cache(), islice(scheduler.tasks(None, steps), n * steps * blocks))
            for n in (1, 4)
        ]
        assert peaks[0] == peaks[1], f"latent frames held, after {blocks} and {4 * blocks} blocks"


def _tasks(name: str) -> Iterator[Task]:
    scheduler, latent_frames, steps = SCHEDULES[name]
    return scheduler.tasks(latent_frames, steps)


def _reads(cache: FeatureCache, task: Task) -> list[FeatureKey]:
    window = cache.window(task)
    return [key for key in (window.reads_before, window.reads_after) if key is not None]
