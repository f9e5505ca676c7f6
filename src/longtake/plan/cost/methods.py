"""Cost of a method in frames, counted from its schedule: no model, no device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from longtake.caches import FeatureCache, Forward, forwards
from longtake.errors import ConfigurationError
from longtake.schedulers import BlockScheduler
from longtake.task import Video


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCost:
    """What a video costs, in latent frames. Guidance with a second branch doubles the work.

    Args:
        passes: Frames that pass through all layers per frame of the video.
        keys: Frames that each of them attends to, itself included, on average.
        widest: Frames of the widest window, those read from the cache included.
        held: Frames whose keys and values are held at most.
        first: Frames that have passed through all layers when the first block is finished.
        first_frames: Frames of that block.
        flat: Whether windows and what is held are no larger than in a video of a third as long.
        endless: Whether the schedule can go on for good.
    """

    passes: float
    keys: float
    widest: int
    held: int
    first: int
    first_frames: int
    flat: bool
    endless: bool


def method_cost(
    scheduler: BlockScheduler, cache: FeatureCache, steps: int, latent_frames: int
) -> MethodCost:
    """Play a schedule of a finite video, and one of a third as long.

    Args:
        scheduler: Cuts and orders.
        cache: How tasks see the rest.
        steps: Denoising steps.
        latent_frames: Length of the video, 3 or more.

    Raises:
        ConfigurationError: Scheduler and cache do not fit each other, or the steps.
    """
    passed = attended = widest = first = first_frames = 0
    sizes = list(_sizes(scheduler, cache, steps, latent_frames))
    for size in sizes:
        passed += size.window
        attended += size.window * (size.window + size.read)
        widest = max(widest, size.window + size.read)
        if size.finished and not first:
            first, first_frames = passed, size.finished
    held = max((size.held for size in sizes), default=0)
    shorter = list(_sizes(scheduler, cache, steps, latent_frames // 3))
    flat = widest <= max(size.window + size.read for size in shorter)
    return MethodCost(
        passes=passed / latent_frames,
        keys=attended / passed,
        widest=widest,
        held=held,
        first=first,
        first_frames=first_frames,
        flat=flat and held <= max(size.held for size in shorter),
        endless=_endless(scheduler),
    )


@dataclass(frozen=True, slots=True)
class _Size:
    """Frames of one forward: passed, read, held after it, finished by it."""

    window: int
    read: int
    held: int
    finished: int


def _sizes(
    scheduler: BlockScheduler, cache: FeatureCache, steps: int, latent_frames: int
) -> Iterator[_Size]:
    held = 0
    for forward in forwards(scheduler.tasks(Video(latent_frames, steps)), cache):
        window = forward.window
        held += len(window.keeps) - len(window.drops)
        yield _Size(len(window.frames), len(window.reads), held, _finished(forward))


def _finished(forward: Forward) -> int:
    return sum(len(run.block_frames) for run in forward.task.finished)


def _endless(scheduler: BlockScheduler) -> bool:
    with suppress(ConfigurationError):
        next(iter(scheduler.blocks(None)))
        return True
    return False
