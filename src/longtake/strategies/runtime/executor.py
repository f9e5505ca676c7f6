"""Executor of a rank's actions: what was planned is what is done, one action after another."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, NoReturn, final

import torch
from torch import Tensor
from torch.profiler import record_function

from longtake.caches import Forward
from longtake.plan.ir.actions import (
    Action,
    Advance,
    Combine,
    Compute,
    Decide,
    Emit,
    Fuse,
    Kind,
    Message,
    OfTask,
    Open,
    Post,
    Receive,
    Send,
)
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.ir.run import LOOKED_AT, actions_of, links, mesh_actions
from longtake.plan.ir.schedule import Schedule
from longtake.plan.ir.text import describe
from longtake.plan.layout import Layout
from longtake.strategies.exchange import TokenShare
from longtake.strategies.runtime.activity import computing_together, told
from longtake.strategies.runtime.block_queue import BlockQueue
from longtake.strategies.runtime.cuts import CutState, LateBlock
from longtake.strategies.runtime.denoising import (
    ActionDone,
    BlockDone,
    Denoising,
    Progress,
    TaskDone,
)
from longtake.strategies.runtime.drain import answers
from longtake.strategies.runtime.guided_blocks import GuidedBlocks
from longtake.strategies.runtime.messages import Drained, Mailbox
from longtake.strategies.runtime.reuse_decider import ReuseDecider
from longtake.strategies.runtime.stretches import Stretches
from longtake.strategies.runtime.task_forward import TaskForward
from longtake.task import FrameRange, Task


@dataclass(slots=True)
class _Begun:
    """A task that this rank takes part in.

    Args:
        forward: The task with its window.
        left: Actions of it that are still to be done before it is done here.
    """

    forward: Forward
    left: int

    @property
    def task(self) -> Task:
        return self.forward.task


@final
class Executor:
    """What one rank of the mesh does for one request.

    Receives are posted where the schedule says so, sends are never waited for but at the end.
    Their number is bounded by the plan.

    Args:
        work: This rank's view of the request.
        layout: Which rank holds and runs what.
        rank: This rank.
        schedule: The strategy's actions.
    """

    def __init__(self, work: Denoising, layout: Layout, rank: int, schedule: Schedule) -> None:
        self._work = work
        self._layout = layout
        self._rank = rank
        self._schedule = schedule
        self._log = logging.getLogger(f"longtake.rank{rank}")
        self._is_output = rank == layout.output_rank
        self._role = RankRole.of(layout, rank)
        self._share = TokenShare.of(layout, rank, work.backbone.spec.heads, work.communicator)
        self._decider = ReuseDecider.of(work, layout, rank, self._share.place)
        self._models = {
            batch: TaskForward(work, batch, self._share, self._decider)
            for batch in self._role.batches
        }
        self._reused = False
        self._together = computing_together(layout, rank)
        self._queue = BlockQueue(work if self._is_output else replace(work, resumed=None))
        self._guided = GuidedBlocks(work)
        self._stretches = Stretches(work.forwards, work.cuts)
        self._actions: Iterator[Action] = iter(())
        self._next = 0
        self._closing = False
        self._begun: dict[int, _Begun] = {}
        """In serial order."""
        self._values: dict[tuple[Kind, int, range], Tensor] = {}
        self._finished: dict[int, tuple[FrameRange, Tensor]] = {}
        self._mail = Mailbox(work.communicator, self._empty)
        self._open_links()

    def run(self) -> Iterator[Progress]:
        """Do every action and report it; see ``ParallelStrategy.run``."""
        try:
            yield from self._stretch()
            while self._stretches.go_on():
                self._save(self._next)
                yield from self._stretch()
        except Drained:
            self._drain()
        except GeneratorExit:
            if not self._is_output:
                raise  # only the output rank may end a request: this one has failed
            self._close()
            raise
        self._mail.flush()

    def _stretch(self) -> Iterator[Progress]:
        """Do the actions of all tasks up to the next cut."""
        work = self._work
        if work.cuts is not None:
            work.cuts.begin()
        self._actions = mesh_actions(
            self._schedule, self._forwards(), work.request, self._layout, self._rank
        )
        for action in self._actions:
            yield from self._timed(action)
        yield from self._done()

    def _close(self) -> None:
        """End the request early (output rank)."""
        # What has been begun goes round to its end, or the other ranks would wait for it.
        self._closing = True
        done = chain.from_iterable(self._do(action) for action in self._actions)
        late = [one for one in done if isinstance(one, BlockDone)]
        self._work.communicator.announce_end(self._next)
        self._drain(late)

    def _save(self, index: int, late: Iterable[BlockDone] = ()) -> None:
        """Hand over what this rank holds when all tasks before ``index`` are done, and no other."""
        if self._work.cuts is None or not index:
            return
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {}
        for model in self._models.values():
            features, facts["entries"] = model.state()
            tensors |= features
        if self._decider is not None:
            first, reuse = self._decider.state()
            tensors |= first
            if self._is_output:
                facts["reuse"] = reuse
        if self._role.combines:
            guided, facts["guidance"] = self._guided.state()
            tensors |= guided
        if self._is_output:
            blocks, facts["queue"] = self._queue.state()
            tensors |= blocks
        unheard = tuple(
            LateBlock(block=one.block, frames=one.frames, latents=one.latents) for one in late
        )
        state = CutState(index=index, tensors=tensors, facts=facts, late=unheard)
        self._work.cuts.take(state)

    def _open_links(self) -> None:
        first, work = self._stretches.look(LOOKED_AT), self._work
        found = links(self._schedule, first, work.request, self._layout)
        groups = self._layout.groups
        if work.reuse is not None:
            groups += self._layout.deciding_groups
        work.communicator.open(found, groups)

    def _forwards(self) -> Iterator[Forward]:
        """Yield the tasks up to the next cut or to where the run is closed; note what is begun."""
        while not self._closing and (forward := self._stretches.take()) is not None:
            self._begun[forward.task.index] = _Begun(forward, self._actions_left(forward.task))
            self._next = forward.task.index + 1
            yield forward

    def _actions_left(self, task: Task) -> int:
        """Return how many actions end a task on this rank: its sampler steps, where it has any."""
        if task.runs and self._is_output:
            return sum((run.weights is not None) + run.advances for run in task.runs)
        return 1

    def _done(self) -> Iterator[Progress]:
        """Report the tasks that are done, in serial order where the video comes out."""
        for index in list(self._begun):
            if self._begun[index].left:
                if self._is_output:
                    return
                continue
            yield TaskDone(self._begun.pop(index).task)

    def _timed(self, action: Action) -> Iterator[Progress]:
        start = time.perf_counter()
        done = list(self._do(action))
        reused = self._reused and isinstance(action, Compute)
        yield ActionDone(action, start, time.perf_counter(), reused)
        yield from done

    def _do(self, action: Action) -> Iterator[Progress]:
        name = describe(action)
        self._log.debug(name)
        activity = self._work.communicator.activity
        device = self._work.device
        with record_function(name), told(activity, action, name, device, self._together):
            match action:
                case Open():
                    latents = self._queue.latents(self._begun[action.index].forward)
                    self._put(Kind.LATENTS, action, self._role.branches, latents)
                case Post():
                    self._mail.post(action)
                case Receive():
                    self._receive(action)
                case Compute():
                    with self._work.communicator.meeting(name):
                        yield from self._compute(action)
                case Combine():
                    yield from self._combine(action)
                case Send():
                    self._send(action)
                case Fuse() | Advance():
                    yield from self._step(action)
                case Emit():
                    frames, latents = self._finished.pop(action.block)
                    yield BlockDone(action.block, frames, latents)
                case Decide():
                    self._decide(action)
                case _:
                    _refuse(name)

    def _compute(self, action: Compute) -> Iterator[Progress]:
        yield from self._done()
        begun, model = self._begun[action.index], self._models[action.branches]
        last_batch = action.branches == self._role.batches[-1]
        if self._role.is_first:
            latents = self._values[Kind.LATENTS, action.index, self._role.branches]
            if last_batch:
                self._take(Kind.LATENTS, action, self._role.branches)
            hidden = model.embed(begun.forward, latents)
        else:
            hidden = self._take(Kind.HOP, action, action.branches)
        heads = self._heads_given(action)
        hidden = model.layers(begun.forward, hidden, action.layers, heads)
        self._reused = model.reused
        if not self._role.is_last:
            self._put(Kind.HOP, action, action.branches, hidden)
        elif begun.task.runs:
            predicted = model.predict(begun.forward, hidden)
            if self._role.predicts:
                self._put(Kind.PREDICTION, action, action.branches, predicted)
        follows = begun.task.runs and (self._is_output or self._role.combines)
        if last_batch and not follows:
            begun.left = 0
            if not self._is_output:
                yield from self._done()

    def _combine(self, action: Combine) -> Iterator[Progress]:
        begun = self._begun[action.index]
        parts = [self._take(Kind.PREDICTION, action, batch) for batch in self._layout.batches]
        joined = parts[0] if len(parts) == 1 else torch.cat([part.float() for part in parts])
        guided = self._guided.combine(begun.task, joined)
        self._put(Kind.GUIDED, action, self._role.branches, guided)
        if not self._is_output:
            begun.left = 0
            yield from self._done()

    def _step(self, action: Fuse | Advance) -> Iterator[Progress]:
        """Add to a block's step, or take it; with the last of a task's actions it is done."""
        yield from self._done()
        begun = self._begun[action.index]
        run = next(run for run in begun.task.runs if run.block == action.block)
        guided = self._values[Kind.GUIDED, action.index, self._role.branches]
        begun.left -= 1
        if not begun.left:
            self._take(Kind.GUIDED, action, self._role.branches)
        if isinstance(action, Fuse):
            self._queue.fuse(begun.forward, run, guided)
        else:
            finished = self._queue.advance(begun.forward, run, guided)
            if finished is not None and run.block >= 0:
                self._finished[run.block] = (run.block_frames, finished)
        if not begun.left and next(iter(self._begun)) == action.index:
            yield TaskDone(self._begun.pop(action.index).task)

    def _decide(self, action: Decide) -> None:
        assert self._work.co_attention is not None
        size = self._models[action.branches].size(self._begun[action.index].forward)
        heads = self._work.co_attention.decide(size)
        self._put(Kind.HEADS, action, action.branches, torch.tensor([heads]))

    def _heads_given(self, action: Compute) -> int:
        """Return the decided operand of a micro-batch."""
        if not self._layout.aco:
            return 0
        decided = self._layout.batches_at(0)[self._role.batches.index(action.branches)]
        return int(self._take(Kind.HEADS, action, decided))

    def _receive(self, action: Receive) -> None:
        message = action.message
        self._put(message.kind, message, message.branches, self._mail.receive(action))

    def _send(self, action: Send) -> None:
        message = action.message
        key = (message.kind, message.index, message.branches)
        # The rank's own layers need the window's latents, and what is decided, as well.
        own_too = message.kind in (Kind.LATENTS, Kind.HEADS)
        self._mail.send(action, self._values[key] if own_too else self._values.pop(key))

    def _drain(self, late: Iterable[BlockDone] = ()) -> None:
        """Answer what the others have posted for tasks that will not come, and be answered.

        Args:
            late: Blocks that were finished while the request was being closed.
        """
        self._mail.take_answers()
        work, layout = self._work, self._layout
        end = self._next if self._is_output else work.communicator.announced_end()
        assert end is not None
        begun = [one.forward for one in self._begun.values() if one.task.index >= end]
        all_of = partial(_actions, self._schedule, work, layout)
        # Decode ranks that only wait for blocks are answered by who hands the blocks over.
        ranks = set(range(layout.size if layout.aco else layout.mesh.size)) - {layout.output_rank}
        for send in answers(chain(begun, self._stretches.rest), all_of, sorted(ranks), self._rank):
            self._mail.answer(send)
        self._mail.flush()
        self._save(end, late)

    def _put(self, kind: Kind, task: OfTask, branches: range, value: Tensor) -> None:
        self._values[kind, task.index, branches] = value

    def _take(self, kind: Kind, task: OfTask, branches: range) -> Tensor:
        return self._values.pop((kind, task.index, branches))

    def _empty(self, message: Message) -> Tensor:
        """Return a buffer for a message: its shape is known from the plan."""
        work, spec = self._work, self._work.backbone.spec
        picture = (spec.channels, message.frames, work.height, work.width)
        dtype = torch.float32
        match message.kind:
            case Kind.HOP:
                tokens = message.frames * spec.tokens_per_frame(work.height, work.width)
                mine = len(self._share.tokens(tokens + spec.text_tokens))
                rows = len(message.branches)
                if work.reuse is not None:  # see Passing
                    rows, mine = 2 * rows, mine + 1
                shape: tuple[int, ...] = (rows, mine, spec.model_dim)
                dtype = work.dtype
            case Kind.PREDICTION:
                shape = (len(message.branches), *picture)
            case Kind.HEADS:
                return torch.empty(1, dtype=torch.int64)
            case _:
                shape = (1, *picture)
        return torch.empty(shape, dtype=dtype, device=work.device)


def _actions(
    schedule: Schedule, work: Denoising, layout: Layout, rest: Iterator[Forward], rank: int
) -> Iterator[Action]:
    return actions_of(schedule, rest, work.request, layout, rank)


def _refuse(action: str) -> NoReturn:
    raise AssertionError(f"a rank of the mesh was to {action}")
