"""Feature cache contract suite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import ClassVar

import pytest

from longtake.caches import Entry, FeatureCache, Forward, Kept, forwards, peak_held_frames
from longtake.noise import Independent
from longtake.schedulers import BlockScheduler, FifoQueue, FullSequence
from longtake.task import Task, Video
from longtake.testing.resumption import assert_goes_on
from longtake.testing.tiny.base import TinyCase

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
    """What every feature cache must do. ``schedules`` are those that it is for."""

    schedules: ClassVar[dict[str, tuple[BlockScheduler, int, int]]] = SCHEDULES
    """Scheduler, latent frames and denoising steps by name; those of a queue by default."""
    every_entry_is_read: ClassVar[bool] = True
    """Whether nothing is left in vain."""

    @abstractmethod
    def cache(self) -> FeatureCache:
        """Return a new feature cache."""

    def test_every_walk_over_a_schedule_is_sound(self) -> None:
        """Reads are of what is held, drops too; what is forwarded, the schedule lets be seen."""
        for name in self.schedules:
            assert list(forwards(self._tasks(name), self.cache())), name

    def test_windows_hold_the_own_frames_together(self) -> None:
        """The prediction of a task is cut out of its window in one piece."""
        for forward in self._all():
            own, frames = forward.task.own, forward.window.frames
            if own:
                first = frames.index(own[0])
                assert frames[first : first + len(own)] == own, forward.task
            assert len(forward.window.positions) == len(frames)

    def test_nothing_is_read_of_the_window_itself(self) -> None:
        """Keys of the own forward are seen anyhow; kept ones of them would be seen twice."""
        for forward in self._all():
            read = [one.entry.frame for one in forward.window.reads]
            assert not set(read).intersection(forward.window.frames), forward.task
            assert len(set(read)) == len(read), f"{forward.task} reads a frame twice"

    def test_what_is_left_is_read(self) -> None:
        """An entry that nobody reads costs memory, and the forward that leaves it may too."""
        if not self.every_entry_is_read:
            pytest.skip("this cache leaves more than is read")
        for name in self.schedules:
            left: set[Entry] = set()
            for forward in forwards(self._tasks(name), self.cache()):
                left.difference_update(read.entry for read in forward.window.reads)
                left.update(entry for entry, _ in forward.window.keeps)
            assert not left, f"{name}: nobody has read {sorted(left)}"

    def test_latents_that_are_forwarded_have_been_promised(self) -> None:
        """A window forwards finished frames only that the windows before it have kept."""
        for name in self.schedules:
            promised: set[int] | None = None
            finished: set[int] = set()
            for forward in forwards(self._tasks(name), self.cache()):
                own = set(forward.task.own)
                old = finished.intersection(forward.window.frames) - own
                assert promised is None or old <= promised, f"{name}: {forward.task}"
                for run in forward.task.runs:
                    if run.last_step:
                        finished.update(run.block_frames.each)
                promised = {f for span in forward.window.latents for f in span.each}

    def test_a_window_is_a_function_of_the_task_and_what_is_held(self) -> None:
        """All ranks decide alike, and a walk that begins later goes on alike."""
        for name in self.schedules:
            walk, cache = list(forwards(self._tasks(name), self.cache())), self.cache()
            assert walk == list(forwards(self._tasks(name), cache))
            held: dict[Entry, Kept] = {}
            for number, forward in enumerate(walk):
                if number % 3 == 0:
                    rest = (later.task for later in walk[number:])
                    assert next(forwards(rest, cache, held)) == forward
                for entry in forward.window.drops:
                    del held[entry]
                held.update(forward.window.keeps)

    def test_what_is_held_does_not_grow_with_the_length(self) -> None:
        """An endless video needs constant memory."""
        for name, (scheduler, _, steps) in self.schedules.items():
            if isinstance(scheduler, FullSequence):
                continue
            blocks = 2 * scheduler.blocks_in_flight(Video(None, steps)) + 12
            peaks = [
                peak_held_frames(
                    self.cache(),
                    islice(scheduler.tasks(Video(None, steps)), n * (steps + 1) * blocks),
                )
                for n in (1, 4)
            ]
            assert peaks[0] == peaks[1], f"{name}: latent frames held after {blocks} blocks and 4x"

    def test_a_video_goes_on_where_it_was_cut(self) -> None:
        """A run that has died goes on with the keys and values that were held, to the same bits."""
        for scheduler, latent_frames, steps in list(self.schedules.values())[:2]:
            case = TinyCase(
                scheduler=scheduler,
                latent_frames=min(latent_frames, 11),
                steps=steps,
                cache=self.cache(),
                noise=Independent(),
                sampler="FlowMatchEulerDiscreteScheduler",
                frame_levels=True,
            )
            assert_goes_on(case)

    def _all(self) -> Iterator[Forward]:
        for name in self.schedules:
            yield from forwards(self._tasks(name), self.cache())

    def _tasks(self, name: str) -> Iterator[Task]:
        scheduler, latent_frames, steps = self.schedules[name]
        return scheduler.tasks(Video(latent_frames, steps))
