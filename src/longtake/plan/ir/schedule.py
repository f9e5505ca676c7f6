"""Schedules of actions: what a strategy makes of tasks, and the parts that it makes it from.

A strategy gives, for each rank of its mesh, the actions of a request in the order in which they
are to be done. It puts them together from ``TaskActions``; what no strategy need think of, blocks
that go to decode ranks and heads that these attend, is put in by :mod:`longtake.plan.ir.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias, final

from longtake.caches import FeatureCache
from longtake.plan.ir.actions import (
    Action,
    Advance,
    Combine,
    Compute,
    Emit,
    Kind,
    Message,
    Open,
    Post,
    Receive,
    Send,
)
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.layout import Layout
from longtake.task import Task

Schedule: TypeAlias = Callable[[Iterable[Task], int, FeatureCache, Layout, int], Iterator[Action]]
"""``ParallelStrategy.actions``: tasks, number of the request, cache, layout, rank to actions."""


@final
class TaskActions:
    """The actions of one task on one rank, for a strategy to put into an order.

    Args:
        task: Which one.
        cache: How tasks see their neighbors.
        here: The rank's role.
    """

    def __init__(self, task: Task, cache: FeatureCache, here: RankRole) -> None:
        self.task = task
        self._here = here
        self._window = window = cache.window(task)
        reads = (window.reads_before, window.reads_after)
        self._reads = tuple(key for key in reads if key is not None)
        self._sees = _sees(task, window.frames.start, window.frames.stop)

    def open(self) -> Iterator[Action]:
        """Open the window, and send its latents to the other first stages (output rank)."""
        yield Open(**self._task, frames=self._window.frames, sees=self._sees)
        for target in self._here.other_firsts:
            yield Send(message=self._latents, target=target)

    def post_result(self) -> Iterator[Post]:
        """Post what the output rank waits for before the sampler step."""
        if self._here.combines:
            for receive in self._other_predictions():
                yield Post(message=receive.message, source=receive.source)
        else:
            yield Post(message=self._guided, source=self._here.combine)

    def receive_window(self) -> Iterator[Receive]:
        """Receive the window's latents (first stages but the output rank's)."""
        if self._here.is_first:
            yield Receive(message=self._latents, source=self._here.output)

    def compute(self, branches: range) -> Iterator[Action]:
        """Run the rank's layers for a batch of branches: from the hop before to the hop after."""
        here = self._here
        hop = self._message(Kind.HOP, branches, len(self._window.frames))
        if here.before is not None:
            yield Receive(message=hop, source=here.before)
        yield self.own_compute(branches)
        if here.after is not None:
            yield Send(message=hop, target=here.after)
        elif here.predicts and not here.combines:
            own = self._message(Kind.PREDICTION, branches, len(self.task.frames))
            yield Send(message=own, target=here.combine)

    def own_compute(self, branches: range) -> Compute:
        """Return the rank's computing alone, without what it receives and sends."""
        return Compute(
            **self._task,
            branches=branches,
            layers=self._here.layers,
            frames=len(self._window.frames),
            context=self._window.context_frames(self.task),
            own=len(self.task.frames),
            reads=self._reads,
            keeps=tuple(key for key, _ in self._window.keeps),
        )

    def combine(self) -> Iterator[Action]:
        """Join the branches' predictions, and return the result (the rank that combines)."""
        if not self._here.combines:
            return
        yield from self._other_predictions()
        yield Combine(**self._task, frames=len(self.task.frames))
        if self._here.combine != self._here.output:
            yield Send(message=self._guided, target=self._here.output)

    def advance(self) -> Iterator[Action]:
        """Take the sampler step, and emit the block when it was its last one (output rank)."""
        if not self._here.combines:
            yield Receive(message=self._guided, source=self._here.combine)
        yield Advance(**self._task, frames=len(self.task.frames))
        if self.task.last_step:
            yield Emit(**self._task, frames=len(self.task.frames))

    def waits_for(self, other: TaskActions) -> bool:
        """Whether the window sees latents that the sampler step of ``other`` makes."""
        return any(
            other.task.block == block and other.task.step < steps for block, steps in self._sees
        )

    @property
    def _task(self) -> dict[str, int]:
        return {"index": self.task.index, "block": self.task.block, "step": self.task.step}

    @property
    def _guided(self) -> Message:
        return self._message(Kind.GUIDED, self._here.branches, len(self.task.frames))

    @property
    def _latents(self) -> Message:
        return self._message(Kind.LATENTS, self._here.branches, len(self._window.frames))

    def _other_predictions(self) -> Iterator[Receive]:
        """Yield the receives of the predictions of the other coordinates of the cfg axis."""
        for source, branches in self._here.other_predictions:
            message = self._message(Kind.PREDICTION, branches, len(self.task.frames))
            yield Receive(message=message, source=source)

    def _message(self, kind: Kind, branches: range, frames: int) -> Message:
        return Message(**self._task, kind=kind, branches=branches, frames=frames)


def post_ahead(actions: Iterable[Action]) -> Iterator[Action]:
    """Post each message before the wait for the one of its kind before it: two buffers per kind.

    At the wait for the first message of a task, what is posted is what a schedule that began with
    this task would have posted there: the drain relies on it.
    """
    held: list[Action] = []
    for action in actions:
        held.append(action)
        if not isinstance(action, Receive):
            continue
        kinds = [one.message.kind if isinstance(one, Receive) else None for one in held]
        # Before its predecessor; the first one of its kind at once.
        post = Post(message=action.message, source=action.source)
        held.insert(kinds.index(action.message.kind) if kinds.count(kinds[-1]) > 1 else 0, post)
        # What comes before all receives that have no successor yet can go.
        kinds = [one.message.kind if isinstance(one, Receive) else None for one in held]
        lasts = [len(kinds) - 1 - kinds[::-1].index(kind) for kind in set(kinds) - {None}]
        yield from held[: min(lasts)]
        del held[: min(lasts)]
    yield from held


def _sees(task: Task, start: int, stop: int) -> tuple[tuple[int, int], ...]:
    """Return the blocks whose latents a window holds, with the steps behind them."""
    sees = [(task.block, task.step)]
    if task.before is not None and start < task.frames.start:
        sees.insert(0, (task.before.block, task.before.steps_done))
    if task.after is not None and stop > task.frames.stop:
        sees.append((task.after.block, task.after.steps_done))
    return tuple(sees)
