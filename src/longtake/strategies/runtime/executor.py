"""Executes one rank's actions of a layer pipeline."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from longtake.caches import Window
from longtake.comm.p2p import Delivery
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
from longtake.plan.ir.compiler import compile_rank, links
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.ir.text import describe
from longtake.plan.layout import Layout
from longtake.strategies.exchange import TokenShare
from longtake.strategies.runtime.block_queue import BlockQueue
from longtake.strategies.runtime.denoising import (
    ActionDone,
    BlockDone,
    Denoising,
    Progress,
    TaskDone,
)
from longtake.strategies.runtime.drain import AHEAD, drain, is_drain
from longtake.strategies.runtime.task_forward import TaskForward
from longtake.task import FrameRange, Task


@dataclass(frozen=True, slots=True)
class _Begun:
    """A task that this rank takes part in."""

    index: int
    task: Task
    window: Window


class _EndedEarly(Exception):
    """The output rank has ended the request before a task that this rank waited for."""


@final
class Executor:
    """What one rank does for one request: its actions, one after another.

    Messages go on while it computes: receives are posted one message ahead, sends are never
    waited for but at the end. Their number is bounded by the plan.

    Args:
        work: This rank's view of the request.
        layout: Which rank holds and runs what.
        rank: This rank.
    """

    def __init__(self, work: Denoising, layout: Layout, rank: int) -> None:
        self._work = work
        self._layout = layout
        self._rank = rank
        self._is_output = rank == layout.output_rank
        self._role = RankRole.of(layout, rank)
        self._share = TokenShare.of(layout, rank, work.backbone.spec.heads, work.communicator)
        self._forwards = {
            batch: TaskForward(work, batch, self._share) for batch in self._role.batches
        }
        self._queue = BlockQueue(work)
        self._schedule = iter(work.tasks)
        self._pulled = 0
        self._closing = False
        self._begun: dict[tuple[int, int], _Begun] = {}
        self._values: dict[tuple[Kind, int, int, range], Tensor] = {}
        self._finished: dict[int, tuple[FrameRange, Tensor]] = {}
        self._posted: dict[Message, tuple[Tensor, Delivery, Post]] = {}
        self._sending: deque[tuple[Delivery, Send]] = deque()
        work.communicator.begin(links(layout), layout.groups)

    def run(self) -> Iterator[Progress]:
        """Do every action and report it; see ``ParallelStrategy.run``."""
        actions = compile_rank(self._tasks(), self._work.cache, self._layout, self._rank)
        try:
            for action in actions:
                yield from self._timed(action)
        except _EndedEarly:
            self._leave()
        except GeneratorExit:
            if not self._is_output:
                raise  # only the output rank may end a request: this one has failed
            # What has been begun goes round to its end, or the other ranks would wait for it.
            self._closing = True
            for action in actions:
                deque(self._do(action), maxlen=0)
            self._work.communicator.announce_end(self._pulled)
            self._leave()
            raise
        self._flush()

    def _tasks(self) -> Iterator[Task]:
        """Yield the schedule, up to where the run is closed, and remember what is begun."""
        while not self._closing:
            task = next(self._schedule, None)
            if task is None:
                return
            self._begun[task.block, task.step] = _Begun(
                self._pulled, task, self._work.cache.window(task)
            )
            self._pulled += 1
            yield task

    def _timed(self, action: Action) -> Iterator[Progress]:
        start = time.perf_counter()
        done = list(self._do(action))
        yield ActionDone(action, start, time.perf_counter())
        yield from done

    def _do(self, action: Action) -> Iterator[Progress]:
        match action:
            case Open():
                begun = self._begun[action.block, action.step]
                latents = self._queue.latents(begun.task, begun.window)
                self._put(Kind.LATENTS, action, self._role.branches, latents)
            case Post():
                self._post(action)
            case Receive():
                self._receive(action)
            case Compute():
                with self._work.communicator.meeting(describe(action)):
                    yield from self._compute(action)
            case Combine():
                yield from self._combine(action)
            case Send():
                self._send(action)
            case Advance():
                yield from self._advance(action)
            case Emit():
                frames, latents = self._finished.pop(action.block)
                yield BlockDone(action.block, frames, latents)

    def _compute(self, action: Compute) -> Iterator[Progress]:
        begun = self._begun[action.block, action.step]
        forward, last_batch = (
            self._forwards[action.branches],
            action.branches == self._role.batches[-1],
        )
        if self._role.is_first:
            latents = self._values[Kind.LATENTS, action.block, action.step, self._role.branches]
            if last_batch:
                self._take(Kind.LATENTS, action, self._role.branches)
            hidden = forward.embed(begun.task, begun.window, latents)
        else:
            hidden = self._take(Kind.HOP, action, action.branches)
        hidden = forward.layers(begun.task, begun.window, hidden, action.layers)
        if self._role.is_last:
            predicted = forward.predict(begun.task, begun.window, hidden)
            if self._role.predicts:
                self._put(Kind.PREDICTION, action, action.branches, predicted)
        else:
            self._put(Kind.HOP, action, action.branches, hidden)
        if last_batch and not (self._is_output or self._role.combines):
            yield self._end(action)

    def _combine(self, action: Combine) -> Iterator[Progress]:
        task = self._begun[action.block, action.step].task
        parts = [self._take(Kind.PREDICTION, action, batch) for batch in self._layout.batches]
        joined = parts[0] if len(parts) == 1 else torch.cat([part.float() for part in parts])
        guided = self._work.combine(task, joined)
        self._put(Kind.GUIDED, action, self._role.branches, guided)
        if not self._is_output:
            yield self._end(action)

    def _advance(self, action: Advance) -> Iterator[Progress]:
        task = self._begun[action.block, action.step].task
        finished = self._queue.advance(task, self._take(Kind.GUIDED, action, self._role.branches))
        if finished is not None:
            self._finished[task.block] = (task.frames, finished)
        yield self._end(action)

    def _end(self, action: Compute | Combine | Advance) -> TaskDone:
        return TaskDone(self._begun.pop((action.block, action.step)).task)

    def _post(self, action: Post) -> None:
        tensor = self._empty(action.message)
        delivery = self._work.communicator.channels[action.message.kind].post(tensor, action.source)
        self._posted[action.message] = (tensor, delivery, action)

    def _receive(self, action: Receive) -> None:
        message, communicator = action.message, self._work.communicator
        tensor, delivery, _ = self._posted.pop(message)
        communicator.wait(delivery, describe(action), action.source)
        if not self._is_output and is_drain(tensor):
            end = communicator.announced_end()
            if end is not None and self._begun[message.block, message.step].index >= end:
                self._pulled = end
                raise _EndedEarly
        self._values[message.kind, message.block, message.step, message.branches] = tensor

    def _send(self, action: Send) -> None:
        message = action.message
        key = (message.kind, message.block, message.step, message.branches)
        # The latents of a window are for this rank's own layers as well.
        tensor = self._values[key] if message.kind is Kind.LATENTS else self._values.pop(key)
        self._begin_to_send(action, tensor)

    def _begin_to_send(self, action: Send, tensor: Tensor) -> None:
        while self._sending and self._is_through(*self._sending[0]):
            self._sending.popleft()
        tensor = tensor.to(self._dtype(action.message.kind)).contiguous()
        channel = self._work.communicator.channels[action.message.kind]
        self._sending.append((channel.send(tensor, action.target), action))

    def _is_through(self, delivery: Delivery, action: Send) -> bool:
        return self._work.communicator.is_through(delivery, describe(action), action.target)

    def _leave(self) -> None:
        """Answer the receives that the others have posted for tasks that will not come."""
        for _, delivery, post in self._posted.values():
            self._work.communicator.wait(delivery, describe(post), post.source)
        rest = [begun.task for begun in self._begun.values() if begun.index >= self._pulled]
        for task in self._schedule:
            if len(rest) == AHEAD:
                break
            rest.append(task)
        for send in drain(rest, self._work.cache, self._layout, self._rank):
            self._begin_to_send(send, torch.full_like(self._empty(send.message), torch.nan))
        self._flush()

    def _flush(self) -> None:
        for delivery, action in self._sending:
            self._work.communicator.wait(delivery, describe(action), action.target)
        self._sending.clear()

    def _put(
        self, kind: Kind, action: Open | Compute | Combine, branches: range, value: Tensor
    ) -> None:
        self._values[kind, action.block, action.step, branches] = value

    def _take(self, kind: Kind, action: Compute | Combine | Advance, branches: range) -> Tensor:
        return self._values.pop((kind, action.block, action.step, branches))

    def _dtype(self, kind: Kind) -> torch.dtype:
        return self._work.dtype if kind is Kind.HOP else torch.float32

    def _empty(self, message: Message) -> Tensor:
        """Return a buffer for a message: its shape is known from the plan."""
        work, spec = self._work, self._work.backbone.spec
        picture = (spec.channels, message.frames, work.height, work.width)
        match message.kind:
            case Kind.HOP:
                tokens = message.frames * spec.tokens_per_frame(work.height, work.width)
                mine = len(self._share.tokens(tokens + spec.text_tokens))
                shape: tuple[int, ...] = (len(message.branches), mine, spec.model_dim)
            case Kind.PREDICTION:
                shape = (len(message.branches), *picture)
            case Kind.LATENTS | Kind.GUIDED:
                shape = (1, *picture)
        return torch.empty(shape, dtype=self._dtype(message.kind), device=work.device)
