"""Tasks to actions: what each rank of a layer pipeline does, in which order.

The stages form a ring (DualParal, AAAI 2026, section 3): the output rank puts a window's latents
together and runs the first layers, hidden states hop from stage to stage, the last stage predicts
the block's own frames, joins the guidance branches and returns the result, and the output rank
takes the sampler step. Ranks that share a stage's tokens (ring, Ulysses) do all of this alike,
each with its own tokens; the first of them predicts.

While a task is under way, the output rank begins further ones, as far as the schedule allows: what
a task reads of which version is read off the schedule, never off what happens to have arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

from longtake.caches import FeatureCache, Window
from longtake.plan.actions import (
    Action,
    Advance,
    Compute,
    Emit,
    Guide,
    Kind,
    Message,
    Open,
    Post,
    Receive,
    Send,
)
from longtake.plan.layout import Layout
from longtake.plan.mesh import Axis
from longtake.plan.task import Task

UNDER_WAY: Final = 2
"""Micro-tasks under way per stage: one that is computed, and one that travels or waits."""


def compile_rank(
    tasks: Iterable[Task], cache: FeatureCache, layout: Layout, rank: int
) -> Iterator[Action]:
    """Yield the actions of one rank, lazily: an endless schedule has endless actions.

    Args:
        tasks: The schedule, in serial order.
        cache: How tasks see their neighbors.
        layout: Which rank holds and runs what.
        rank: Whose actions.
    """
    here = _Place.of(layout, rank)
    if rank == layout.output_rank:
        return _output_rank(tasks, cache, here, layout.mesh.pipe)
    return _post_ahead(_other_rank(tasks, cache, here))


def links(layout: Layout) -> list[tuple[Kind, int, int]]:
    """Return every (kind, source, target) that a layout's messages use, in a fixed order."""
    mesh, found = layout.mesh, []
    for target in other_first_ranks(layout):
        found.append((Kind.LATENTS, layout.output_rank, target))
    for cfg in range(1, mesh.cfg):
        last = layout.rank(cfg, mesh.pipe - 1)
        found.append((Kind.PREDICTION, last, layout.guide_rank))
    for cfg, stage, index in product(range(mesh.cfg), range(1, mesh.pipe), range(layout.sequence)):
        source, target = layout.rank(cfg, stage - 1, index), layout.rank(cfg, stage, index)
        found.append((Kind.HOP, source, target))
    if mesh.pipe > 1:
        found.append((Kind.GUIDED, layout.guide_rank, layout.output_rank))
    return found


def other_first_ranks(layout: Layout) -> list[int]:
    """Return the ranks of the first stage that the output rank sends windows to."""
    ranks = [
        layout.rank(cfg, 0, index)
        for cfg, index in product(range(layout.mesh.cfg), range(layout.sequence))
    ]
    return [rank for rank in ranks if rank != layout.output_rank]


@dataclass(frozen=True, slots=True)
class _Place:
    """A rank's share of the work, and the ranks that it exchanges messages with.

    Args:
        is_first: Whether it embeds.
        is_last: Whether it has the last layers.
        predicts: Whether it predicts, for all that share the last stage's tokens.
        guides: Whether it joins the branches.
        layers: Its layers.
        batches: Guidance branches that it runs, each as one batch.
        branches: All guidance branches.
        output: The output rank.
        guide: The rank that joins the branches.
        before: The rank of the stage before, with the same branches and tokens.
        after: That of the stage after.
        other_firsts: Other ranks that embed.
        other_predictions: Ranks that predict other branches, with their batches.
    """

    is_first: bool
    is_last: bool
    predicts: bool
    guides: bool
    layers: range
    batches: tuple[range, ...]
    branches: range
    output: int
    guide: int
    before: int | None
    after: int | None
    other_firsts: tuple[int, ...]
    other_predictions: tuple[tuple[int, range], ...]

    @staticmethod
    def of(layout: Layout, rank: int) -> _Place:
        mesh, coordinate = layout.mesh, layout.mesh.coordinate(rank)
        cfg, stage = coordinate[Axis.CFG], coordinate[Axis.PIPE]
        sequence, last = layout.sequence_index(rank), mesh.pipe - 1
        return _Place(
            is_first=stage == 0,
            is_last=stage == last,
            predicts=stage == last and sequence == 0,
            guides=rank == layout.guide_rank,
            layers=layout.layers(rank),
            batches=layout.batches_at(cfg),
            branches=range(layout.batches[-1].stop),
            output=layout.output_rank,
            guide=layout.guide_rank,
            before=layout.rank(cfg, stage - 1, sequence) if stage else None,
            after=layout.rank(cfg, stage + 1, sequence) if stage < last else None,
            other_firsts=tuple(other_first_ranks(layout)),
            other_predictions=tuple(
                (layout.rank(other, last), batch)
                for other in range(1, mesh.cfg)
                for batch in layout.batches_at(other)
            ),
        )

    def message(self, kind: Kind, task: Task, branches: range, frames: int) -> Message:
        return Message(
            kind=kind, block=task.block, step=task.step, branches=branches, frames=frames
        )

    def guided(self, task: Task) -> Message:
        return self.message(Kind.GUIDED, task, self.branches, len(task.frames))

    def latents(self, task: Task, window: Window) -> Message:
        return self.message(Kind.LATENTS, task, self.branches, len(window.frames))


def _output_rank(
    tasks: Iterable[Task], cache: FeatureCache, here: _Place, stages: int
) -> Iterator[Action]:
    limit = UNDER_WAY * stages // len(here.batches)
    begun: deque[Task] = deque()
    for task in tasks:
        window = cache.window(task)
        sees = _sees(task, window)
        while len(begun) > limit or any(_gives(before, sees) for before in begun):
            yield from _take(begun.popleft(), here)
        yield Open(block=task.block, step=task.step, frames=window.frames, sees=sees)
        for target in here.other_firsts:
            yield Send(message=here.latents(task, window), target=target)
        if here.guides:
            for receive in _other_predictions(task, here):
                yield Post(message=receive.message, source=receive.source)
        else:
            yield Post(message=here.guided(task), source=here.guide)
        for branches in here.batches:
            yield _compute(task, window, branches, here)
            yield from _hop(task, window, branches, here)
        if here.guides:
            yield from _other_predictions(task, here)
            yield Guide(block=task.block, step=task.step, frames=len(task.frames))
            yield from _advance(task)
        else:
            begun.append(task)
    while begun:
        yield from _take(begun.popleft(), here)


def _other_rank(tasks: Iterable[Task], cache: FeatureCache, here: _Place) -> Iterator[Action]:
    """Yield receives, computes and sends; the posts are put in by ``_post_ahead``."""
    for task in tasks:
        window = cache.window(task)
        if here.is_first:
            yield Receive(message=here.latents(task, window), source=here.output)
        for branches in here.batches:
            if here.before is not None:
                hop = here.message(Kind.HOP, task, branches, len(window.frames))
                yield Receive(message=hop, source=here.before)
            yield _compute(task, window, branches, here)
            yield from _hop(task, window, branches, here)
            if here.predicts and not here.guides:
                own = here.message(Kind.PREDICTION, task, branches, len(task.frames))
                yield Send(message=own, target=here.guide)
        if here.guides:
            yield from _other_predictions(task, here)
            yield Guide(block=task.block, step=task.step, frames=len(task.frames))
            yield Send(message=here.guided(task), target=here.output)


def _post_ahead(actions: Iterable[Action]) -> Iterator[Action]:
    """Post each message before the wait for the one of its kind before it: two buffers per kind.

    At the wait for the first message of a task, what is posted is what a plan that began with
    this task would have posted there: ``farewells`` relies on it.
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


def _compute(task: Task, window: Window, branches: range, here: _Place) -> Compute:
    context, reads = 0, []
    for key, neighbor in ((window.reads_before, task.before), (window.reads_after, task.after)):
        if key is not None and neighbor is not None:
            context += len(neighbor.frames)
            reads.append(key)
    return Compute(
        block=task.block,
        step=task.step,
        branches=branches,
        layers=here.layers,
        frames=len(window.frames),
        context=context,
        own=len(task.frames),
        reads=tuple(reads),
        keeps=tuple(key for key, _ in window.keeps),
    )


def _hop(task: Task, window: Window, branches: range, here: _Place) -> Iterator[Send]:
    """Yield the send of hidden states, but on the last stage."""
    if here.after is not None:
        message = here.message(Kind.HOP, task, branches, len(window.frames))
        yield Send(message=message, target=here.after)


def _other_predictions(task: Task, here: _Place) -> Iterator[Receive]:
    """Yield the receives of the predictions of the other coordinates of the cfg axis."""
    for source, branches in here.other_predictions:
        message = here.message(Kind.PREDICTION, task, branches, len(task.frames))
        yield Receive(message=message, source=source)


def _take(task: Task, here: _Place) -> Iterator[Action]:
    yield Receive(message=here.guided(task), source=here.guide)
    yield from _advance(task)


def _advance(task: Task) -> Iterator[Action]:
    yield Advance(block=task.block, step=task.step, frames=len(task.frames))
    if task.last_step:
        yield Emit(block=task.block, frames=len(task.frames))


def _sees(task: Task, window: Window) -> tuple[tuple[int, int], ...]:
    """Return the blocks whose latents a window holds, with the steps behind them."""
    sees = [(task.block, task.step)]
    if task.before is not None and window.frames.start < task.frames.start:
        sees.insert(0, (task.before.block, task.before.steps_done))
    if task.after is not None and window.frames.stop > task.frames.stop:
        sees.append((task.after.block, task.after.steps_done))
    return tuple(sees)


def _gives(task: Task, sees: tuple[tuple[int, int], ...]) -> bool:
    """Whether a task's sampler step makes latents that are seen."""
    return any(task.block == block and task.step < steps for block, steps in sees)
