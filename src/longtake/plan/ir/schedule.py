"""Schedules of actions: what a strategy makes of tasks, and the parts that it makes it from.

A strategy gives, for each rank of its mesh, the actions of a request in the order in which they
are to be done. It puts them together from ``TaskActions``; what no strategy need think of, blocks
that go to decode ranks and heads that these attend, is put in by :mod:`longtake.plan.ir.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias, final

from longtake.caches import Forward
from longtake.plan.ir.actions import (
    Action,
    Advance,
    Combine,
    Compute,
    Emit,
    Fuse,
    Kind,
    Message,
    Open,
    Post,
    Receive,
    Send,
    entry_spans,
)
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.layout import Layout
from longtake.task import spans

Schedule: TypeAlias = Callable[[Iterable[Forward], int, Layout, int], Iterator[Action]]
"""``ParallelStrategy.actions``: forwards, number of the request, layout, rank to actions."""


@final
class TaskActions:
    """The actions of one task on one rank, for a strategy to put into an order.

    Args:
        forward: The task, and what it computes, reads and leaves.
        here: The rank's role.
    """

    def __init__(self, forward: Forward, here: RankRole) -> None:
        self.task = forward.task
        self._here = here
        self._window = forward.window
        self._latents = tuple(forward.latents)
        self._own = len(forward.task.own)

    def open(self) -> Iterator[Action]:
        """Open the window, and send its latents to the other first stages (output rank)."""
        enters = tuple((one.block, one.frames, one.version) for one in self.task.enters)
        yield Open(
            **self._of_task,
            frames=self._latents,
            forwarded=len(self._window.frames),
            enters=enters,
        )
        for target in self._here.other_firsts:
            yield Send(message=self._window_message, target=target)

    def post_result(self) -> Iterator[Post]:
        """Post what the output rank waits for before the sampler step."""
        if not self._own:
            return
        if self._here.combines:
            for receive in self._other_predictions():
                yield Post(message=receive.message, source=receive.source)
        else:
            yield Post(message=self._guided, source=self._here.combine)

    def receive_window(self) -> Iterator[Receive]:
        """Receive the window's latents (first stages but the output rank's)."""
        if self._here.is_first:
            yield Receive(message=self._window_message, source=self._here.output)

    def compute(self, branches: range) -> Iterator[Action]:
        """Run the rank's layers for a batch of branches: from the hop before to the hop after."""
        here = self._here
        hop = self._message(Kind.HOP, branches, len(self._window.frames))
        if here.before is not None:
            yield Receive(message=hop, source=here.before)
        yield self.own_compute(branches)
        if here.after is not None:
            yield Send(message=hop, target=here.after)
        elif self._own and here.predicts and not here.combines:
            own = self._message(Kind.PREDICTION, branches, self._own)
            yield Send(message=own, target=here.combine)

    def own_compute(self, branches: range) -> Compute:
        """Return the rank's computing alone, without what it receives and sends."""
        window = self._window
        return Compute(
            **self._of_task,
            branches=branches,
            layers=self._here.layers,
            frames=len(window.frames),
            own=self._own,
            reads=entry_spans(read.entry for read in window.reads),
            keeps=tuple(spans(entry.frame for entry, _ in window.keeps)),
            drops=entry_spans(window.drops),
        )

    def combine(self) -> Iterator[Action]:
        """Join the branches' predictions, and return the result (the rank that combines)."""
        if not (self._own and self._here.combines):
            return
        yield from self._other_predictions()
        yield Combine(**self._of_task, frames=self._own)
        if self._here.combine != self._here.output:
            yield Send(message=self._guided, target=self._here.output)

    def advance(self) -> Iterator[Action]:
        """Take the sampler steps, and emit the blocks whose last one it was (output rank).

        Nothing for a task that leaves keys and values only.
        """
        if not self._own:
            return
        if not self._here.combines:
            yield Receive(message=self._guided, source=self._here.combine)
        index = self.task.index
        for run in self.task.runs:
            of_run = {"index": index, "block": run.block, "step": run.step}
            if run.weights is not None:
                yield Fuse(**of_run, frames=len(run.frames))
            if run.advances:
                yield Advance(**of_run, frames=len(run.block_frames))
        for run in self.task.finished:
            frames = len(run.block_frames)
            yield Emit(index=index, block=run.block, step=run.step, frames=frames)

    def waits_for(self, other: TaskActions) -> bool:
        """Whether the window sees latents that a sampler step of ``other`` makes."""
        return any(
            run.step < version and run.block_frames.overlaps(frames)
            for run in other.task.runs
            for frames, version in self._latents
        )

    @property
    def _of_task(self) -> dict[str, int]:
        return {"index": self.task.index, "block": self.task.block, "step": self.task.step}

    @property
    def _guided(self) -> Message:
        return self._message(Kind.GUIDED, self._here.branches, self._own)

    @property
    def _window_message(self) -> Message:
        return self._message(Kind.LATENTS, self._here.branches, len(self._window.frames))

    def _other_predictions(self) -> Iterator[Receive]:
        """Yield the receives of the predictions of the other coordinates of the cfg axis."""
        for source, branches in self._here.other_predictions:
            message = self._message(Kind.PREDICTION, branches, self._own)
            yield Receive(message=message, source=source)

    def _message(self, kind: Kind, branches: range, frames: int) -> Message:
        return Message(**self._of_task, kind=kind, branches=branches, frames=frames)


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
