"""Methods that cannot be: schedules, caches and models that do not fit each other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from longtake.caches import FeatureCache, Forward, settled_forwards, unread_entries
from longtake.errors import ConfigurationError
from longtake.plan.walk import walk
from longtake.plan.workload import Workload
from longtake.schedulers import BlockScheduler
from longtake.task import Video

_QUIET_BLOCKS: Final = 4
"""Blocks that are played after the cache is full: the schedule goes on alike."""
_REMEMBERED: Final = 4
"""Schedules whose beginnings are kept: those of a run's requests, or of a comparison's caches."""


def check_method(workload: Workload) -> None:
    """Refuse a schedule that is wrong, and one that does not fit the cache or the model.

    Plays the beginning of the schedule without tensors.

    Args:
        workload: The request.

    Raises:
        ConfigurationError: Names the task, what it needs, and what to choose instead.
    """
    first, _ = first_forwards(workload)
    for forward in first:
        _check_seen(forward, workload)
        _check_levels(forward, workload)
        _check_positions(forward, workload)
        _check_given(forward, workload)
        if not forward.task.runs and workload.spec.experts > 1:
            raise ConfigurationError(
                f"{forward.task.name} passes finished frames for their keys and values, but "
                f"{workload.spec.name} has {workload.spec.experts} experts, each of which would "
                f"need its own; choose the FifoQueue scheduler, or a model of one expert."
            )
    _check_use(first, workload)


def unread(workload: Workload) -> list[str]:
    """Return what is kept in vain, with its cost, in a sentence; none where all is read.

    Args:
        workload: The request.

    Raises:
        ConfigurationError: The schedule and the cache do not fit each other.
    """
    first, whole = first_forwards(workload)
    tasks = [forward.task for forward in first]
    found = unread_entries(workload.cache, tasks, whole=whole)
    if not found.frames:
        return []
    numbers = workload.tokens_per_frame * workload.spec.model_dim * workload.spec.layers
    size = 2 * found.peak * numbers * workload.item_bytes * workload.branches / 2**30
    passes = f"; forwards that leave nothing else: {found.passes}" if found.passes else ""
    return [
        f"of the keys and values of {found.kept} latent frames that {workload.cache!r} keeps in "
        f"the first {len(tasks)} tasks, those of {found.frames} are never read: at most "
        f"{found.peak} at once, {size:.2f} GiB in all layers{passes}."
    ]


def first_forwards(workload: Workload) -> tuple[tuple[Forward, ...], bool]:
    """Return the first forwards, found right, and whether they are all: the others are alike.

    So many that the queue is full, and so is what the cache holds, and a few more blocks' worth.

    Args:
        workload: The request.

    Raises:
        ConfigurationError: The schedule is wrong, or does not fit the cache.
    """
    return _first(workload.scheduler, workload.cache, workload.video)


@lru_cache(maxsize=_REMEMBERED)
def _first(
    scheduler: BlockScheduler, cache: FeatureCache, video: Video
) -> tuple[tuple[Forward, ...], bool]:
    first, whole = settled_forwards(walk(scheduler, cache, video), _QUIET_BLOCKS)
    return tuple(first), whole


def _check_seen(forward: Forward, workload: Workload) -> None:
    """Refuse a cache that shows a task nothing of what the schedule lets it see."""
    seen = {frame for one in forward.task.sees for frame in one.frames.each}
    if seen and not seen.intersection(forward.window.shown):
        cache, scheduler = type(workload.cache).__name__, type(workload.scheduler).__name__
        raise ConfigurationError(
            f"{forward.task.name} of {scheduler} may see latent frames {min(seen)} to {max(seen)}, "
            f"but the cache {cache} keeps nothing of them for it; choose RollingKV for causal "
            f"schedulers, NextBlockKV or SameStepKV for FifoQueue, NoCache for the others."
        )


def _check_use(forwards: Sequence[Forward], workload: Workload) -> None:
    """Refuse a cache that keeps what nothing reads: it would cost memory and change nothing."""
    kept = sum(len(forward.window.keeps) for forward in forwards)
    if kept and not any(forward.window.reads for forward in forwards):
        cache, scheduler = type(workload.cache).__name__, type(workload.scheduler).__name__
        raise ConfigurationError(
            f"{cache} would keep the keys and values of {kept} latent frames, none of which a task "
            f"of {scheduler} reads; choose the cache NoCache, which makes the same video."
        )


def _check_levels(forward: Forward, workload: Workload) -> None:
    """Refuse windows of several noise levels where the model takes one timestep for all."""
    if workload.spec.timestep == "frame":
        return
    task = forward.task
    steps = sorted({run.step for run in task.runs})
    told = f"denoises frames at steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else ""
    own = set(task.own)
    for frame in forward.window.frames if not told else ():
        seen = None if frame in own else task.seen(frame)
        if seen is not None and seen.own_level:
            told = f"forwards latent frame {frame} at another noise level than its own frames"
            break
    if told:
        raise ConfigurationError(
            f"{task.name} {told}, but {workload.spec.name} takes one timestep for all frames of a "
            f"window; set model.timesteps_per: frame where the model can take one for each, "
            f"or choose another scheduler, or for a causal one the cache RollingKV."
        )


def _check_positions(forward: Forward, workload: Workload) -> None:
    """Refuse kept keys that move where the model's positions cannot, or that stand on others."""
    taken = set(forward.window.positions)
    twice = [read for read in forward.window.reads if read.position in taken]
    if twice:
        raise ConfigurationError(
            f"{forward.task.name} of {type(workload.scheduler).__name__} has positions of its own, "
            f"and {type(workload.cache).__name__} shows it latent frame {twice[0].entry.frame} at "
            f"position {twice[0].position}, where another one is; choose the cache NoCache."
        )
    moved = [read for read in forward.window.reads if read.position != read.entry.frame]
    if moved and not workload.spec.moves_keys:
        raise ConfigurationError(
            f"{forward.task.name} sees latent frame {moved[0].entry.frame} at position "
            f"{moved[0].position}, but kept keys of {workload.spec.name} cannot move along time; "
            f"set moved_sinks: false."
        )


def _check_given(forward: Forward, workload: Workload) -> None:
    """Refuse windows where other frames stand before given ones, which the model cannot see."""
    frames = list(forward.window.frames)
    if workload.spec.start == "given" and frames != sorted(frames):
        raise ConfigurationError(
            f"{forward.task.name} of {type(workload.scheduler).__name__} goes on over the video's "
            f"end at its beginning, but {workload.spec.name} knows given frames as the first of a "
            f"window only; choose a schedule that does not loop (static, uniform)."
        )
