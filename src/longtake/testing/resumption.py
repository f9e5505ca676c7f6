"""Resumption of tiny requests: cut or closed at given tasks, and gone on with elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Generator
from dataclasses import replace
from typing import final

import torch
from typing_extensions import override

from longtake.strategies import (
    BlockDone,
    Communicator,
    ParallelStrategy,
    Progress,
    SingleDevice,
)
from longtake.strategies.runtime.cuts import Cuts, CutState
from longtake.task import Task
from longtake.testing.tiny.base import TinyCase, tiny_denoising


@final
class TaskCuts(Cuts):
    """Cuts a request before given tasks, and remembers what is held there.

    Args:
        before: Indices of the tasks.
    """

    def __init__(self, before: Collection[int]) -> None:
        self._before = frozenset(before)
        self.states: list[CutState] = []

    @override
    def begin(self) -> None:
        pass

    @override
    def falls_between(self, before: Task, after: Task) -> bool:
        return after.index in self._before

    @override
    def take(self, state: CutState) -> None:
        tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
        self.states.append(replace(state, tensors=tensors))


@torch.no_grad()
def run_cut(
    communicator: Communicator,
    strategy: ParallelStrategy,
    case: TinyCase,
    before: Collection[int],
    close_after: int | None = None,
    state: CutState | None = None,
) -> tuple[list[BlockDone], list[CutState]]:
    """Run a request on one rank; return its blocks, and what the rank held at each cut.

    Args:
        communicator: The ranks.
        strategy: Of the run.
        case: What is made.
        before: Tasks before which it is cut.
        close_after: Events after which the output rank closes it; ``None``: it is not closed.
        state: What it held at the cut from which on it goes on; ``None``: it begins.
    """
    cuts = TaskCuts(before)
    running, closes = _started(communicator, strategy, case, cuts, state)
    blocks = []
    for shown, event in enumerate(running, start=1):
        blocks += [event] if isinstance(event, BlockDone) else []
        if closes and shown == close_after:
            running.close()
    return blocks, cuts.states


@torch.no_grad()
def run_on(
    communicator: Communicator, strategy: ParallelStrategy, case: TinyCase, state: CutState
) -> list[BlockDone]:
    """Go on with a request on one rank; return its blocks."""
    running, _ = _started(communicator, strategy, case, None, state)
    return [event for event in running if isinstance(event, BlockDone)]


def assert_goes_on(case: TinyCase) -> None:
    """Assert that a request that goes on from a cut makes the same blocks, bit by bit.

    Args:
        case: What is made; cut early, in the midst and late.
    """
    communicator, strategy = Communicator.alone(), SingleDevice()
    tasks = [forward.task for forward in case.workload.forwards()]
    cuts = {tasks[place].index for place in (1, len(tasks) // 2, -1) if len(tasks) > 1}
    whole, _ = run_cut(communicator, strategy, case, ())
    expected = {block.block: block.latents for block in whole}
    _, states = run_cut(communicator, strategy, case, cuts)
    assert len(states) == len(cuts)
    for state in states:
        finished = {
            run.block for task in tasks if task.index < state.index for run in task.finished
        }
        made = {block.block: block.latents for block in run_on(communicator, strategy, case, state)}
        assert made.keys() == expected.keys() - finished, f"blocks made from task {state.index} on"
        for block, latents in made.items():
            assert torch.equal(latents, expected[block]), (
                f"block {block}, gone on with from task {state.index}, is another one: what the "
                f"request needs there is not all that is saved"
            )


def _started(
    communicator: Communicator,
    strategy: ParallelStrategy,
    case: TinyCase,
    cuts: Cuts | None,
    state: CutState | None,
) -> tuple[Generator[Progress, None, None], bool]:
    layout = strategy.layout(communicator.world_size, case.workload)
    work = tiny_denoising(case, layout.layers(communicator.rank), communicator)
    running = strategy.run(replace(work, cuts=cuts, resumed=state), layout, communicator.rank)
    assert isinstance(running, Generator)
    return running, communicator.rank == layout.output_rank
