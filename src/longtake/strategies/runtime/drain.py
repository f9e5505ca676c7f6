"""Drain of a request that is ended early: no message is left unanswered.

When the output rank ends a request after some tasks, every other rank has posted receives for the
next ones already. Each sender answers them with messages that hold nothing, so that the links are
clean for the next request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile, tee
from typing import TypeAlias

from longtake.caches import Forward
from longtake.plan.ir.actions import Action, Post, Receive, Send

ActionsOf: TypeAlias = Callable[[Iterable[Forward], int], Iterator[Action]]
"""The actions of some tasks on a rank."""


def answers(
    forwards: Iterable[Forward], actions_of: ActionsOf, ranks: Iterable[int], rank: int
) -> Iterator[Send]:
    """Yield the messages that a rank still owes to others.

    A rank that waits for the first message of a task has posted what the actions of a schedule
    that began with this task would have posted there.

    Args:
        forwards: Tasks that will not come, in serial order; only as many are read as have been
            posted for.
        actions_of: The request's actions.
        ranks: All that may wait.
        rank: The one that sends.
    """
    ranks = [other for other in ranks if other != rank]
    for other, its_tasks in zip(ranks, tee(forwards, len(ranks)), strict=True):
        actions = actions_of(its_tasks, other)
        for action in takewhile(lambda one: not isinstance(one, Receive), actions):
            if isinstance(action, Post) and action.source == rank:
                yield Send(message=action.message, target=other)
