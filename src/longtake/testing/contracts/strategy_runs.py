"""Runs of the strategy contract suite: whole, closed, under CUDA's rules; and the oracle's."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from functools import cache

import torch
from torch import Tensor

from longtake.strategies import (
    BlockDone,
    Communicator,
    ParallelStrategy,
    Progress,
    SingleDevice,
    TaskDone,
)
from longtake.task import Task
from longtake.testing.contracts.strategy_cases import CASES
from longtake.testing.cuda_rules.device import EmulatedDevice
from longtake.testing.cuda_rules.order import Sent
from longtake.testing.cuda_rules.transport import emulated_ranks
from longtake.testing.tiny.base import TinyCase, tiny_denoising


@torch.no_grad()
def run_requests(
    communicator: Communicator, strategy: ParallelStrategy, requests: Sequence[TinyCase]
) -> list[list[Progress]]:
    """Run requests one after another on one rank; return what each of them yields."""
    return [list(_start(communicator, strategy, request)) for request in requests]


@torch.no_grad()
def close_early(
    communicator: Communicator,
    strategy: ParallelStrategy,
    request: TinyCase,
    count: int,
    after: TinyCase,
) -> tuple[list[Progress], list[Progress]]:
    """Let the output rank close ``request`` after ``count`` tasks and blocks; run ``after``."""
    running, closed = _start(communicator, strategy, request), []
    closes = (
        communicator.rank == strategy.layout(communicator.world_size, request.workload).output_rank
    )
    for event in running:
        closed.append(event)
        if closes and len(tasks_of(closed)) + len(blocks_of(closed)) == count:
            running.close()
    return closed, list(_start(communicator, strategy, after))


@torch.no_grad()
def run_under_cuda_rules(
    communicator: Communicator, strategy: ParallelStrategy, request: TinyCase
) -> tuple[list[Progress], list[Sent]]:
    """Run a request on emulated devices; return what it yields, and the messages that it began."""
    device = EmulatedDevice()
    with emulated_ranks(communicator, device) as ranks, device.rules():
        return list(_start(ranks, strategy, request)), device.log


def _start(
    communicator: Communicator, strategy: ParallelStrategy, request: TinyCase
) -> Generator[Progress, None, None]:
    layout = strategy.layout(communicator.world_size, request.workload)
    work = tiny_denoising(request, layout.layers(communicator.rank), communicator)
    running = strategy.run(work, layout, communicator.rank)
    assert isinstance(running, Generator), "run() must be a generator: it has to be closed"
    return running


@cache
def serial(name: str) -> list[Tensor]:
    """Return the blocks of a case as the oracle makes them."""
    (events,) = run_requests(Communicator.alone(), SingleDevice(), [CASES[name]])
    return [block.latents for block in blocks_of(events)]


def tasks_of(events: Iterable[Progress]) -> list[Task]:
    """Return the tasks that a rank reports."""
    return [event.task for event in events if isinstance(event, TaskDone)]


def blocks_of(events: Iterable[Progress]) -> list[BlockDone]:
    """Return the blocks that a rank reports."""
    return [event for event in events if isinstance(event, BlockDone)]
