"""Activity of a rank's actions: what its watchdog is told of each."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Final

import torch

from longtake.comm.activity import Activity
from longtake.comm.device_queue import mark
from longtake.plan.ir.actions import Action, Attend, Compute, Decode, Receive
from longtake.plan.layout import Layout

OUTPUT_RANK: Final = 0
"""As every layout has it."""


@contextmanager
def told(
    activity: Activity,
    action: Action,
    name: str,
    device: torch.device,
    together: tuple[int, ...] = (),
) -> Iterator[None]:
    """Do an action, and tell the watchdog; a device's work is told until the device has done it.

    Args:
        activity: Of the rank.
        action: Which one.
        name: In words.
        device: The rank's.
        together: Ranks that compute each task with this one.
    """
    together = together if isinstance(action, Compute) else ()
    with activity.action(name, _kind(action), _partner(action), together):
        yield
        if isinstance(action, Compute | Decode):
            activity.queued(mark(device))


def computing_together(layout: Layout, rank: int) -> tuple[int, ...]:
    """Return the ranks that a rank of the mesh waits for while it computes."""
    first = rank - layout.sequence_index(rank)
    stage = tuple(other for other in range(first, first + layout.sequence) if other != rank)
    return (*stage, layout.helper(rank)) if layout.aco else stage


def _partner(action: Action) -> int | None:
    """Return the rank that an action waits for."""
    match action:
        case Receive(source=source):
            return source
        case Attend():
            return OUTPUT_RANK  # it gives heads away as the others do
        case _:
            return None


def _kind(action: Action) -> Hashable:
    """Return what tells actions of different cost apart: their sizes, not their places."""
    match action:
        case Compute(branches=branches, layers=layers, frames=frames, context=context):
            return Compute, branches, layers, frames, context
        case Receive(message=message):
            return Receive, message.kind, message.branches, message.frames
        case Decode(frames=frames):
            return Decode, frames
        case Attend(branches=branches):
            return Attend, branches
        case _:
            return type(action).__name__
