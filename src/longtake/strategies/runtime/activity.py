"""Activity of a rank's actions: what its watchdog is told of each."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch

from longtake.comm.activity import Activity
from longtake.comm.device_queue import mark
from longtake.plan.ir.actions import Action, Attend, Compute, Decode, Receive


@contextmanager
def told(activity: Activity, action: Action, name: str, device: torch.device) -> Iterator[None]:
    """Do an action, and tell the watchdog; a device's work is told until the device has done it.

    Args:
        activity: Of the rank.
        action: Which one.
        name: In words.
        device: The rank's.
    """
    partner = action.source if isinstance(action, Receive) else None
    with activity.action(name, _kind(action), partner):
        yield
        if isinstance(action, Compute | Decode):
            activity.queued(mark(device))


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
