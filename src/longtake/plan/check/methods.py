"""Methods that cannot be: schedules, caches and models that do not fit each other."""

from __future__ import annotations

from itertools import islice

from longtake.caches import Forward, unread_entries
from longtake.errors import ConfigurationError
from longtake.plan.workload import Workload


def check_method(workload: Workload) -> None:
    """Refuse a schedule and a cache that do not fit each other, or the model.

    Plays the schedule without tensors until its blocks are in flight and a few more: it goes on
    alike.

    Args:
        workload: The request.

    Raises:
        ConfigurationError: Names the task, what it needs, and what to choose instead.
    """
    forwards = _first(workload)
    for forward in forwards:
        _check_seen(forward, workload)
        _check_levels(forward, workload)
        _check_positions(forward, workload)
        if not forward.task.runs and workload.spec.experts > 1:
            raise ConfigurationError(
                f"{_where(forward)} passes finished frames for their keys and values, but "
                f"{workload.spec.name} has {workload.spec.experts} experts, each of which would "
                f"need its own; choose the FifoQueue scheduler, or a model of one expert."
            )
    _check_use(forwards, workload)


def unread(workload: Workload) -> str | None:
    """Return how much is kept in vain, in words; ``None``: nothing.

    Args:
        workload: The request.
    """
    tasks = (forward.task for forward in _first(workload))
    found = unread_entries(workload.cache, tasks)
    # What the last tasks leave is read by those that are not played here.
    last = max((entry.index for entry in found), default=0)
    early = [entry for entry in found if entry.index < last // 2]
    if not early:
        return None
    spec = workload.spec
    size = 2 * workload.tokens_per_frame * spec.model_dim * workload.item_bytes * spec.layers
    return (
        f"{len(early)} latent frames' keys and values ({len(early) * size / 2**30:.2f} GiB in all "
        f"layers) are kept by {type(workload.cache).__name__} and never read."
    )


def _first(workload: Workload) -> list[Forward]:
    tasks = (workload.blocks_in_flight + 4) * (workload.steps + 2)
    return list(islice(workload.forwards(), tasks))


def _where(forward: Forward) -> str:
    task = forward.task
    return f"task {task.index} (block {task.block}, step {task.step})"


def _check_seen(forward: Forward, workload: Workload) -> None:
    """Refuse a cache that shows a task nothing of what the schedule lets it see."""
    seen = {frame for one in forward.task.sees for frame in one.frames.each}
    shown = {*forward.window.frames, *(read.entry.frame for read in forward.window.reads)}
    if seen and not seen.intersection(shown):
        cache, scheduler = type(workload.cache).__name__, type(workload.scheduler).__name__
        raise ConfigurationError(
            f"{_where(forward)} of {scheduler} may see latent frames {min(seen)} to {max(seen)}, "
            f"but the cache {cache} keeps nothing of them for it; choose RollingKV for causal "
            f"schedulers, NextBlockKV or SameStepKV for FifoQueue, NoCache for the others."
        )


def _check_use(forwards: list[Forward], workload: Workload) -> None:
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
            f"{_where(forward)} {told}, but {workload.spec.name} takes one timestep for all frames "
            f"of a window; set model.timesteps_per: frame where the model can take one for each, "
            f"or choose another scheduler, or for a causal one the cache RollingKV."
        )


def _check_positions(forward: Forward, workload: Workload) -> None:
    """Refuse kept keys that move where the model's positions cannot, or that stand on others."""
    taken = set(forward.window.positions)
    twice = [read for read in forward.window.reads if read.position in taken]
    if twice:
        raise ConfigurationError(
            f"{_where(forward)} of {type(workload.scheduler).__name__} has positions of its own, "
            f"and {type(workload.cache).__name__} shows it latent frame {twice[0].entry.frame} at "
            f"position {twice[0].position}, where another one is; choose the cache NoCache."
        )
    moved = [read for read in forward.window.reads if read.position != read.entry.frame]
    if moved and not workload.spec.moves_keys:
        raise ConfigurationError(
            f"{_where(forward)} sees latent frame {moved[0].entry.frame} at position "
            f"{moved[0].position}, but kept keys of {workload.spec.name} cannot move along time; "
            f"set moved_sinks: false."
        )
