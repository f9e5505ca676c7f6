"""The rank pool, and what the strategies' contract finds on it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.strategies import (
    BlockDone,
    Communicator,
    Denoising,
    Layout,
    Mesh,
    ParallelStrategy,
    Progress,
    SingleDevice,
    Workload,
)
from longtake.testing.contracts import ParallelStrategyContract
from longtake.testing.ranks import RankPool, rank_pool


def add_up(communicator: Communicator, tensor: Tensor) -> tuple[int, Tensor]:
    total = tensor * communicator.rank
    dist.all_reduce(total)
    return os.getpid(), total


def fail_on(communicator: Communicator, rank: int) -> None:
    if communicator.rank == rank:
        raise ValueError(f"{rank} is a bad rank")
    dist.barrier()


def die_on(communicator: Communicator, rank: int) -> None:
    if communicator.rank == rank:
        os._exit(3)


def sleep_on(communicator: Communicator, rank: int) -> None:
    if communicator.rank == rank:
        time.sleep(60)


def stop_on(communicator: Communicator, rank: int) -> None:
    if communicator.rank == rank:
        os.kill(os.getpid(), signal.SIGSTOP)


def interrupt(communicator: Communicator) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return communicator.rank


def process_of(communicator: Communicator) -> int:
    return os.getpid()


def test_ranks_are_joined_and_kept() -> None:
    values = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    first = rank_pool(2).run(add_up, values)
    again = rank_pool(2).run(add_up, values)
    assert [pid for pid, _ in first] == [pid for pid, _ in again]
    assert len({pid for pid, _ in first}) == 2
    for _, total in first:
        assert torch.equal(total, values)


def test_ranks_ignore_the_interrupt_of_the_test() -> None:
    assert rank_pool(2).run(interrupt) == [0, 1]


def test_a_class_that_ranks_cannot_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("only_here")
    exec("class Alone: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    pool = RankPool(1)
    with pytest.raises(AssertionError, match=r"(?s)rank 0 failed:.*No module named 'only_here'"):
        pool.run(process_of, module.Alone())
    pool.close()


def test_a_failure_names_the_rank_and_shows_its_traceback() -> None:
    pool = RankPool(2)
    with pytest.raises(AssertionError, match=r"(?s)rank 1 failed:.*in fail_on.*1 is a bad rank"):
        pool.run(fail_on, 1)
    assert len(set(pool.run(process_of))) == 2, "a new pool after a failure"
    pool.close()


def test_a_dead_rank_is_named() -> None:
    pool = RankPool(2)
    with pytest.raises(AssertionError, match="rank 1 died with exit code 3"):
        pool.run(die_on, 1)
    pool.close()


@pytest.mark.parametrize(("hang", "where"), [(sleep_on, "in sleep_on"), (stop_on, "It is stopped")])
def test_a_hanging_rank_is_named_and_ended(hang: Callable[..., None], where: str) -> None:
    pool = RankPool(2, timeout=3)
    pids = pool.run(process_of)
    with pytest.raises(AssertionError, match=rf"(?s)^rank 1 has not answered.*{where}"):
        pool.run(hang, 1)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not set(pool.run(process_of)) & set(pids)
    pool.close()


def test_the_test_process_keeps_no_thread_of_a_closed_pool() -> None:
    before = threading.active_count()
    pool = RankPool(2)
    pool.run(process_of)
    pool.close()
    assert threading.active_count() == before


class OneWorks(ParallelStrategy):
    """Rank 0 runs everything, the others look on."""

    def layout(self, world_size: int, workload: Workload) -> Layout:
        if world_size != 2:
            raise ConfigurationError(f"OneWorks runs on 2 devices, not on {world_size}.")
        layers, branches = range(workload.spec.layers), range(workload.branches)
        return Layout(mesh=Mesh(ulysses=2), stages=(layers,), batches=(branches,))

    def run(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        if rank == layout.output_rank:
            one = replace(layout, mesh=Mesh())
            yield from SingleDevice().run(work, one, rank)


class TestOneWorks(ParallelStrategyContract):
    world_size = 2
    impossible = (0, 1, 3)

    def strategy(self) -> ParallelStrategy:
        return OneWorks()


class BothWork(OneWorks):
    """Every rank says that the output is its own."""

    def run(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        yield from super().run(work, layout, layout.output_rank)


class Halved(OneWorks):
    """Rank 1 multiplies what rank 0 has made, which is not what one device does."""

    share: ClassVar[float] = 0.5

    def run(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        for event in super().run(work, layout, rank):
            if isinstance(event, BlockDone):
                yield replace(event, latents=event.latents * self.share)
            else:
                yield event


class Crossed(OneWorks):
    """Rank 1 fails where rank 0 waits for it."""

    def run(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        if rank == 1:
            raise ArithmeticError("lost count")
        yield from super().run(work, layout, rank)
        dist.barrier()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (BothWork(), "blocks come from the output rank alone"),
        (Halved(), r"block 0 is 5\.00e-01 \(relative\) from the serial run"),
        (Crossed(), "(?s)rank 1 failed:.*lost count"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ParallelStrategy) else "",
)
def test_the_contract_finds_strategies_that_break_it(broken: OneWorks, words: str) -> None:
    class Suite(ParallelStrategyContract):
        world_size = 2

        def strategy(self) -> ParallelStrategy:
            return broken

    with pytest.raises(AssertionError, match=words):
        Suite().test_a_video_is_that_of_the_serial_run("two-blocks")
