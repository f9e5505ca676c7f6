"""Tasks in flight: how many can be under way at once, from what each of them waits for."""

from __future__ import annotations

from longtake.plan.cost.rundown import Rundown, rundown
from longtake.plan.cost.simulator import ENOUGH_BLOCKS, bounded
from longtake.plan.workload import Workload


def tasks_in_flight(tasks: Rundown) -> float:
    """Return how many tasks are under way at once, in the mean, however many stages there are.

    A task begins no sooner than the one before it in serial order, and not before the sampler
    steps are taken that the latents of its window must have behind them. For keys and values it
    does not wait: they are left and read layer by layer, so one stage can follow another. With a
    unit of time for each task, this is their number over the time that all take: what a pipeline
    can use, filling and draining included. Blocks in flight do not tell it: windows of one block
    may be independent, and blocks may wait for each other.

    Args:
        tasks: Of a video.
    """
    starts: list[int] = []
    for step in tasks.steps:
        before = starts[-1] if starts else 0
        starts.append(before if step.waits < 0 else max(before, starts[step.waits] + 1))
    return len(starts) / (starts[-1] + 1)


def of_workload(workload: Workload, stages: int) -> float:
    """Return the tasks in flight of a workload's first blocks: enough of them to fill stages.

    Args:
        workload: Of a video of any length, or an endless one.
        stages: Pipeline stages that are to be filled.
    """
    return tasks_in_flight(rundown(bounded(workload, max(ENOUGH_BLOCKS, 4 * stages))))
