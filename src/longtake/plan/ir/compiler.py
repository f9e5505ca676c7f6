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
from itertools import product
from typing import Final

from longtake.caches import FeatureCache, Window
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
from longtake.plan.ir.rank_role import RankRole, other_first_ranks
from longtake.plan.layout import Layout
from longtake.task import Task

UNDER_WAY: Final = 2
"""Micro-batchs under way per stage: one that is computed, and one that travels or waits."""


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
    role = RankRole.of(layout, rank)
    if rank == layout.output_rank:
        return _output_rank(tasks, cache, role, layout.mesh.pipe)
    return post_ahead(_other_rank(tasks, cache, role))


def links(layout: Layout) -> list[tuple[Kind, int, int]]:
    """Return every (kind, source, target) that a layout's messages use, in a fixed order."""
    mesh, found = layout.mesh, []
    for target in other_first_ranks(layout):
        found.append((Kind.LATENTS, layout.output_rank, target))
    for cfg in range(1, mesh.cfg):
        last = layout.rank(cfg, mesh.pipe - 1)
        found.append((Kind.PREDICTION, last, layout.combine_rank))
    for cfg, stage, index in product(range(mesh.cfg), range(1, mesh.pipe), range(layout.sequence)):
        source, target = layout.rank(cfg, stage - 1, index), layout.rank(cfg, stage, index)
        found.append((Kind.HOP, source, target))
    if mesh.pipe > 1:
        found.append((Kind.GUIDED, layout.combine_rank, layout.output_rank))
    return found


def _output_rank(
    tasks: Iterable[Task], cache: FeatureCache, role: RankRole, stages: int
) -> Iterator[Action]:
    limit = UNDER_WAY * stages // len(role.batches)
    begun: deque[Task] = deque()
    for task in tasks:
        window = cache.window(task)
        sees = _sees(task, window)
        while len(begun) > limit or any(_gives(before, sees) for before in begun):
            yield from _take(begun.popleft(), role)
        yield Open(block=task.block, step=task.step, frames=window.frames, sees=sees)
        for target in role.other_firsts:
            yield Send(message=_latents(task, window, role), target=target)
        if role.combines:
            for receive in _other_predictions(task, role):
                yield Post(message=receive.message, source=receive.source)
        else:
            yield Post(message=_guided(task, role), source=role.combine)
        for branches in role.batches:
            yield _compute(task, window, branches, role)
            yield from _hop(task, window, branches, role)
        if role.combines:
            yield from _other_predictions(task, role)
            yield Combine(block=task.block, step=task.step, frames=len(task.frames))
            yield from _advance(task)
        else:
            begun.append(task)
    while begun:
        yield from _take(begun.popleft(), role)


def _other_rank(tasks: Iterable[Task], cache: FeatureCache, role: RankRole) -> Iterator[Action]:
    """Yield receives, computes and sends; the posts are put in by ``post_ahead``."""
    for task in tasks:
        window = cache.window(task)
        if role.is_first:
            yield Receive(message=_latents(task, window, role), source=role.output)
        for branches in role.batches:
            if role.before is not None:
                hop = _message(Kind.HOP, task, branches, len(window.frames))
                yield Receive(message=hop, source=role.before)
            yield _compute(task, window, branches, role)
            yield from _hop(task, window, branches, role)
            if role.predicts and not role.combines:
                own = _message(Kind.PREDICTION, task, branches, len(task.frames))
                yield Send(message=own, target=role.combine)
        if role.combines:
            yield from _other_predictions(task, role)
            yield Combine(block=task.block, step=task.step, frames=len(task.frames))
            yield Send(message=_guided(task, role), target=role.output)


def post_ahead(actions: Iterable[Action]) -> Iterator[Action]:
    """Post each message before the wait for the one of its kind before it: two buffers per kind.

    At the wait for the first message of a task, what is posted is what a plan that began with
    this task would have posted there: ``drain`` relies on it.
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


def _message(kind: Kind, task: Task, branches: range, frames: int) -> Message:
    return Message(kind=kind, block=task.block, step=task.step, branches=branches, frames=frames)


def _guided(task: Task, role: RankRole) -> Message:
    return _message(Kind.GUIDED, task, role.branches, len(task.frames))


def _latents(task: Task, window: Window, role: RankRole) -> Message:
    return _message(Kind.LATENTS, task, role.branches, len(window.frames))


def _compute(task: Task, window: Window, branches: range, role: RankRole) -> Compute:
    reads = (window.reads_before, window.reads_after)
    return Compute(
        block=task.block,
        step=task.step,
        branches=branches,
        layers=role.layers,
        frames=len(window.frames),
        context=window.context_frames(task),
        own=len(task.frames),
        reads=tuple(key for key in reads if key is not None),
        keeps=tuple(key for key, _ in window.keeps),
    )


def _hop(task: Task, window: Window, branches: range, role: RankRole) -> Iterator[Send]:
    """Yield the send of hidden states, but on the last stage."""
    if role.after is not None:
        message = _message(Kind.HOP, task, branches, len(window.frames))
        yield Send(message=message, target=role.after)


def _other_predictions(task: Task, role: RankRole) -> Iterator[Receive]:
    """Yield the receives of the predictions of the other coordinates of the cfg axis."""
    for source, branches in role.other_predictions:
        message = _message(Kind.PREDICTION, task, branches, len(task.frames))
        yield Receive(message=message, source=source)


def _take(task: Task, role: RankRole) -> Iterator[Action]:
    yield Receive(message=_guided(task, role), source=role.combine)
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
