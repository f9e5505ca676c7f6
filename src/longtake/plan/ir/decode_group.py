"""The decode group: ranks beside the mesh that decode what the mesh has denoised.

PipeDiT's DeDiVAE (AAAI 2026, section 3.2) with a difference: there a decoder gets a prompt's video
when all of it is denoised, here it gets every block as it finishes, so that a single long video is
decoded while it is denoised. Requests take turns on the decode ranks, or all of them share each
one's tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, tee

from longtake.plan.ir.actions import Action, Advance, Decode, Emit, Kind, Message, Receive, Send
from longtake.plan.ir.compiler import compile_rank, post_ahead
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload
from longtake.task import Task


def compile_run(layout: Layout, workload: Workload) -> list[Iterator[Action]]:
    """Return every rank's actions of all requests of a workload, lazily, decode ranks last.

    Args:
        layout: Which rank holds and runs what.
        workload: What is made; its requests are taken to be alike.
    """
    parts = [_compile_request(layout, workload, request) for request in range(workload.requests)]
    return [chain.from_iterable(of_rank) for of_rank in zip(*parts, strict=True)]


def _compile_request(
    layout: Layout, workload: Workload, request: int
) -> Iterator[Iterator[Action]]:
    mesh, branches = layout.mesh.size, range(workload.branches)
    decodes = layout.decode_ranks(request)
    # One schedule for all: ranks are never far apart, so little of it is held.
    for rank, tasks in enumerate(tee(workload.tasks(), layout.size)):
        if rank < mesh:
            actions = compile_rank(tasks, workload.cache, layout, rank)
            if rank == layout.output_rank:
                actions = _hand_over(actions, branches, decodes)
            yield actions
        elif rank in decodes:
            yield post_ahead(_decode(tasks, branches, layout.output_rank))
        else:
            yield iter(())


def _hand_over(
    actions: Iterable[Action], branches: range, targets: Sequence[int]
) -> Iterator[Action]:
    """Send each block on as it is emitted."""
    step = 0
    for action in actions:
        yield action
        if isinstance(action, Advance):
            step = action.step
        if isinstance(action, Emit):
            message = _block(action.block, step, branches, action.frames)
            for target in targets:
                yield Send(message=message, target=target)


def _decode(tasks: Iterable[Task], branches: range, source: int) -> Iterator[Action]:
    for task in tasks:
        if task.last_step:
            frames = len(task.frames)
            message = _block(task.block, task.step, branches, frames)
            yield Receive(message=message, source=source)
            yield Decode(block=task.block, frames=frames)


def _block(block: int, step: int, branches: range, frames: int) -> Message:
    return Message(kind=Kind.BLOCK, block=block, step=step, branches=branches, frames=frames)
