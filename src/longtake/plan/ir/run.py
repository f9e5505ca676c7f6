"""Runs as actions: the strategy's, and those of decoding, for every rank and request.

Decoding is the same for all strategies. Without decode ranks the output rank decodes between its
tasks (where it is a CPU and alone, in a thread, in the same order). With them it hands each block
over as it is emitted and collects the frames: PipeDiT's DeDiVAE (AAAI 2026, section 3.2) with a
difference: there a decoder gets a prompt's video when all of it is denoised, here it gets every
block as it finishes. Requests take turns on the decode ranks, or all of them share each one's
tiles. Ranks with nothing to decode may attend heads of the mesh (attention co-processing, section
3.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, tee
from typing import Final, final

from longtake.caches import Forward
from longtake.plan.ir.actions import (
    Action,
    Advance,
    Attend,
    Collect,
    Compute,
    Decide,
    Decode,
    Emit,
    Finish,
    Kind,
    Message,
    OfTask,
    Post,
    Receive,
    Send,
)
from longtake.plan.ir.schedule import Schedule
from longtake.plan.layout import Layout
from longtake.plan.mesh import Axis
from longtake.plan.workload import Workload

LOOKED_AT: Final = 8
"""Tasks whose messages show between which ranks there are links."""


def compile_run(layout: Layout, workload: Workload, schedule: Schedule) -> list[Iterator[Action]]:
    """Return every rank's actions of all requests of a workload, lazily, decode ranks last.

    Args:
        layout: Which rank holds and runs what.
        workload: What is made; its requests are taken to be alike.
        schedule: The strategy's.
    """
    parts = []
    for request in range(workload.requests):
        # One schedule for all: ranks are never far apart, so little of it is held.
        copies = tee(workload.forwards(), layout.size)
        parts.append(
            [
                actions_of(schedule, forwards, request, layout, rank)
                for rank, forwards in enumerate(copies)
            ]
        )
    return [chain.from_iterable(of_rank) for of_rank in zip(*parts, strict=True)]


def actions_of(
    schedule: Schedule,
    forwards: Iterable[Forward],
    request: int,
    layout: Layout,
    rank: int,
) -> Iterator[Action]:
    """Return everything that a rank does for a request, lazily.

    Args:
        schedule: The strategy's.
        forwards: Of the request, in serial order.
        request: Number of the request in the run.
        layout: Which rank holds and runs what.
        rank: Whose actions.
    """
    if rank >= layout.mesh.size:
        return decode_rank_actions(forwards, request, layout, rank)
    actions = mesh_actions(schedule, forwards, request, layout, rank)
    if rank != layout.output_rank:
        return actions
    if layout.decoders:
        return _hand_over(actions, request, layout)
    return _decode_between(actions, layout)


def mesh_actions(
    schedule: Schedule,
    forwards: Iterable[Forward],
    request: int,
    layout: Layout,
    rank: int,
) -> Iterator[Action]:
    """Return what a rank of the mesh does for a request, but for the decoding of blocks."""
    actions = schedule(forwards, request, layout, rank)
    return _co_attend(actions, layout, rank) if layout.aco else actions


def links(
    schedule: Schedule, forwards: Iterable[Forward], request: int, layout: Layout
) -> list[tuple[Kind, int, int]]:
    """Return every (kind, source, target) of the mesh's messages in some tasks, in a fixed order.

    Args:
        schedule: The strategy's.
        forwards: A few, all of the first ones.
        request: Number of the request in the run.
        layout: Which rank holds and runs what.
    """
    forwards, found = list(forwards), dict[tuple[Kind, int, int], None]()
    for rank in range(layout.mesh.size):
        for action in schedule(forwards, request, layout, rank):
            if isinstance(action, Send):
                found[action.message.kind, rank, action.target] = None
    return list(found)


def hand_over(emitted: OfTask, frames: int, request: int, layout: Layout) -> list[Action]:
    """Return what the output rank does with a finished block where other ranks decode.

    Args:
        emitted: The action that emits it.
        frames: Its latent frames.
        request: Number of the request in the run.
        layout: Which rank holds and runs what.
    """
    decoders = layout.decode_ranks(request)
    block = _message(Kind.BLOCK, emitted, frames, layout)
    collect = Collect(message=_message(Kind.FRAMES, emitted, frames, layout), source=decoders[0])
    return [*(Send(message=block, target=rank) for rank in decoders), collect]


def collect_rest(last: OfTask, request: int, layout: Layout) -> Collect:
    """Return how the output rank takes what a VAE has held back until the video's end.

    Args:
        last: The action that has emitted, or received, the last block.
        request: Number of the request in the run.
        layout: Which rank holds and runs what.
    """
    source = layout.decode_ranks(request)[0]
    return Collect(message=_message(Kind.REST, last, 0, layout), source=source)


def decode_rank_actions(
    forwards: Iterable[Forward], request: int, layout: Layout, rank: int, resumed_at: int = 0
) -> Iterator[Action]:
    """Yield what a decode rank does for a request: nothing where it is another one's turn.

    Args:
        forwards: Of the request, in serial order.
        request: Number of the request in the run.
        layout: Which rank holds and runs what.
        rank: Whose actions.
        resumed_at: The first task that is run; blocks of those before it are decoded anew.
    """
    output, decoders = layout.output_rank, layout.decode_ranks(request)
    last: OfTask | None = None
    for forward in forwards:
        task = forward.task
        if layout.aco and task.index >= resumed_at:
            here = OfTask(index=task.index, block=task.block, step=task.step)
            for branches in layout.batches_at(0):
                heads = _heads(here, branches)
                yield Post(message=heads, source=output)
                yield Receive(message=heads, source=output)
                yield Attend(**_of(here), branches=branches, layers=layout.stages[0])
        for run in task.finished if rank in decoders else ():
            last = OfTask(index=task.index, block=run.block, step=run.step)
            frames = len(run.block_frames)
            block = _message(Kind.BLOCK, last, frames, layout)
            yield Post(message=block, source=output)
            yield Receive(message=block, source=output)
            for first in range(frames):
                yield Decode(**_of(last), frames=1, first=first)
            if rank == decoders[0]:
                yield Send(message=_message(Kind.FRAMES, last, frames, layout), target=output)
    if last is not None:
        yield from finish(last, request, layout, rank)


def finish(last: OfTask, request: int, layout: Layout, rank: int) -> Iterator[Action]:
    """Yield what a decode rank does at the end of a video of which it has decoded blocks.

    Args:
        last: The action that has emitted, or received, the last block.
        request: Number of the request in the run.
        layout: Which rank holds and runs what.
        rank: Whose actions.
    """
    yield Finish(**_of(last))
    if rank == layout.decode_ranks(request)[0]:
        yield Send(message=_message(Kind.REST, last, 0, layout), target=layout.output_rank)


@final
class BetweenTasks:
    """What the output rank decodes between its tasks, where no other rank decodes.

    A latent frame after each task, so that ranks that wait for it can go on; a block at once where
    there is no other rank.

    Args:
        layout: Which rank holds and runs what.
    """

    def __init__(self, layout: Layout) -> None:
        self._at_once = layout.mesh.size == 1
        self._last: Emit | None = None
        self._done = 0

    def after_task(self) -> Iterator[Decode]:
        """Yield what is decoded after each task."""
        yield from self._decode(1)

    def after_block(self, emitted: Emit) -> Iterator[Decode]:
        """Yield what is decoded when a block is finished: at least what is left of the last one."""
        yield from self._rest()
        self._last, self._done = emitted, 0
        if self._at_once:
            yield from self._rest()

    def end(self) -> Iterator[Decode | Finish]:
        """Yield what is decoded when the video has ended."""
        yield from self._rest()
        if self._last is not None:
            yield Finish(**_of(self._last))

    def _rest(self) -> Iterator[Decode]:
        if self._last is not None:
            yield from self._decode(self._last.frames)

    def _decode(self, most: int) -> Iterator[Decode]:
        """Yield the next latent frames of the block, one by one."""
        last = self._last
        while last is not None and most and self._done < last.frames:
            most, self._done = most - 1, self._done + 1
            yield Decode(**_of(last), frames=1, first=self._done - 1)


def _decode_between(actions: Iterable[Action], layout: Layout) -> Iterator[Action]:
    between = BetweenTasks(layout)
    for action in actions:
        if isinstance(action, Emit):
            yield action
            yield from between.after_block(action)
        elif isinstance(action, Advance):
            yield action
            yield from between.after_task()
        else:
            yield action
    yield from between.end()


def _hand_over(actions: Iterable[Action], request: int, layout: Layout) -> Iterator[Action]:
    last: Emit | None = None
    for action in actions:
        yield action
        if isinstance(action, Emit):
            last = action
            yield from hand_over(action, action.frames, request, layout)
    if last is not None:
        yield collect_rest(last, request, layout)


def _co_attend(actions: Iterable[Action], layout: Layout, rank: int) -> Iterator[Action]:
    """Have the heads of each micro-batch decided before it is computed."""
    output, others = layout.output_rank, range(layout.size)
    mine = layout.batches_at(layout.mesh.coordinate(rank)[Axis.CFG])
    decided = dict(zip(mine, layout.batches_at(0), strict=True))
    for action in actions:
        if isinstance(action, Compute):
            heads = _heads(action, decided[action.branches])
            if rank == output:
                yield Decide(**_of(action), branches=action.branches)
                for other in others:
                    if other != output:
                        yield Send(message=heads, target=other)
            else:
                yield Post(message=heads, source=output)
                yield Receive(message=heads, source=output)
        yield action


def _of(task: OfTask) -> dict[str, int]:
    return {"index": task.index, "block": task.block, "step": task.step}


def _message(kind: Kind, task: OfTask, frames: int, layout: Layout) -> Message:
    branches = range(layout.batches[-1].stop)
    return Message(**_of(task), kind=kind, branches=branches, frames=frames)


def _heads(task: OfTask, branches: range) -> Message:
    return Message(**_of(task), kind=Kind.HEADS, branches=branches, frames=0)
