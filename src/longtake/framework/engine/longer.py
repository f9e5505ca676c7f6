"""Longer video: up to which task it is made as a shorter one is, bit by bit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

import torch

from longtake.caches import Forward
from longtake.errors import ConfigurationError
from longtake.framework.engine.conditioning import kept_frames
from longtake.framework.engine.denoising import noise_of
from longtake.framework.engine.request import Request
from longtake.framework.engine.workloads import Workloads


def common_edge(shorter: Iterable[Forward], longer: Iterable[Forward]) -> int:
    """Return the last task at an iteration edge before which two schedules do the same.

    Args:
        shorter: Of a video.
        longer: Of a longer one.

    Returns:
        The task's index; 0: there is none but the first.
    """
    edge, iteration = 0, 0
    for number, (one, other) in enumerate(zip(shorter, longer, strict=False)):
        if number and one.task.iteration != iteration:
            edge = one.task.index
        if one != other:
            return edge
        iteration = one.task.iteration
    return edge


def edge_of_longer(workloads: Workloads, request: Request) -> int:
    """Return the last iteration edge at which a request is still that for any longer video.

    Args:
        workloads: Of the run.
        request: Which one.

    Returns:
        The index of the task there; 0: its schedule needs to know the end from the beginning.
    """
    endless = replace(request, num_frames=None)
    try:
        shorter, longer = workloads.of(request), workloads.of(endless)
        return common_edge(shorter.forwards(), longer.forwards())
    except ConfigurationError:
        return 0


def is_made_alike(
    workloads: Workloads, shorter: Request, longer: Request, cut: int, drawn: int
) -> bool:
    """Whether a longer video is made as a shorter one up to a cut: tasks, noise, levels, start.

    Args:
        workloads: Of the run.
        shorter: The request for a video.
        longer: The request for the same video, but longer.
        cut: Index of the task at the cut.
        drawn: Blocks whose noise has been drawn before it.
    """
    if shorter.end is not None:
        return False  # it stands elsewhere in the longer one
    known = [
        None if one.start is None else kept_frames(one, workloads.model.spec)
        for one in (shorter, longer)
    ]
    if known[0] != known[1]:
        return False
    if workloads.flow_shift(shorter) != workloads.flow_shift(longer):
        return False
    timesteps = [list(workloads.sampler(one).timesteps) for one in (shorter, longer)]
    if timesteps[0] != timesteps[1]:
        return False
    before, now = (workloads.of(one).forwards() for one in (shorter, longer))
    if common_edge(before, now) < cut:
        return False
    noise = zip(
        islice(noise_of(workloads, shorter), drawn),
        islice(noise_of(workloads, longer), drawn),
        strict=True,
    )
    return all(torch.equal(one, other) for one, other in noise)
