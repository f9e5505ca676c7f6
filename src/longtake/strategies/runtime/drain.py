"""How a request that is ended early leaves no message unanswered.

When the output rank ends a request after some tasks, every other rank has posted receives for the
next ones already. Each sender answers them with messages of NaN, so that the channels are clean for
the next request. A model's own NaN is told apart by asking the run's store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Final

import torch
from torch import Tensor

from longtake.caches import FeatureCache
from longtake.plan.ir.actions import Post, Receive, Send
from longtake.plan.ir.compiler import compile_rank
from longtake.plan.layout import Layout
from longtake.task import Task

AHEAD: Final = 2
"""Tasks for which a rank may have posted receives when it waits for the first message of one."""


def drain(tasks: Sequence[Task], cache: FeatureCache, layout: Layout, rank: int) -> Iterator[Send]:
    """Yield the messages that a rank still owes to others.

    Args:
        tasks: The next ``AHEAD`` tasks that will not come; fewer at the end of the schedule.
        cache: How tasks see their neighbors.
        layout: Which rank holds and runs what.
        rank: The rank that sends.
    """
    for other in range(layout.mesh.size):
        if other == layout.output_rank:
            continue
        actions = compile_rank(tasks, cache, layout, other)
        for action in takewhile(lambda action: not isinstance(action, Receive), actions):
            if isinstance(action, Post) and action.source == rank:
                yield Send(message=action.message, target=other)


def is_drain(tensor: Tensor) -> bool:
    """Whether a message may be a drain message: it begins with NaN."""
    return bool(torch.isnan(tensor.view(-1)[0]))
