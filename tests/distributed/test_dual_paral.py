"""DualParal on ranks: the contract, for every way to lay it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch

from longtake.strategies import (
    BlockDone,
    Communicator,
    DualParal,
    ParallelStrategy,
    Progress,
    SingleDevice,
    TaskDone,
)
from longtake.task import Task
from longtake.testing.contracts import ParallelStrategyContract
from longtake.testing.contracts.strategy_cases import CASES
from longtake.testing.contracts.strategy_runs import close_early, run_requests, serial
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import TinyCase

THIRDS = [slice(first, None, 3) for first in range(3)]
"""Of the cases, for suites that differ in the number of stages alone."""


class DualParalContract(ParallelStrategyContract):
    """Guidance together: the operands have the serial run's shapes, so it is bit-equal."""

    stages: ClassVar[int] = 1
    impossible = (0, 7)

    def strategy(self) -> ParallelStrategy:
        return DualParal(stages=self.stages, cfg=1, guidance="together")


class TestOneStage(DualParalContract):
    part = THIRDS[0]


class TestTwoStages(DualParalContract):
    world_size = stages = 2
    part = THIRDS[1]


class TestThreeStages(DualParalContract):
    world_size = stages = 3
    part = THIRDS[2]


class TestFourStages(DualParalContract):
    """All cases: more stages than some of them have blocks or tasks."""

    world_size = stages = 4


class TestUnevenSplit(ParallelStrategyContract):
    world_size = 3
    part = THIRDS[0]
    impossible = (0, 1, 2, 4)

    def strategy(self) -> ParallelStrategy:
        return DualParal(stages=3, cfg=1, guidance="together", split=[1, 2, 1])

    def test_the_split_is_the_one_asked_for(self) -> None:
        layout = self.strategy().layout(3, CASES["next-block-kv"].workload)
        assert layout.stages == (range(1), range(1, 3), range(3, 4))


class ApartContract(ParallelStrategyContract):
    # Batches of 1 instead of 2: a processor's kernels may sum in another order, which guidance
    # 5 and the multi-step samplers amplify.
    tolerance = 1e-5


class TestTwoStagesApart(ApartContract):
    world_size = 2

    def strategy(self) -> ParallelStrategy:
        return DualParal(stages=2, cfg=1, guidance="apart")


class TestThreeStagesApart(ApartContract):
    world_size = 3
    part = THIRDS[1]

    def strategy(self) -> ParallelStrategy:
        return DualParal(stages=3, cfg=1, guidance="apart")


class TestBranchesOnTwoRanks(ApartContract):
    world_size = 2
    refused = ("no-guidance",)

    def strategy(self) -> ParallelStrategy:
        return DualParal(stages=1, cfg=2)


class TestBranchesOnTwoStagesEach(ApartContract):
    world_size = 4
    part = THIRDS[2]
    refused = ("no-guidance",)

    def strategy(self) -> ParallelStrategy:
        return DualParal(stages=2, cfg=2)


def test_every_rank_of_a_pipeline_takes_part_in_every_task() -> None:
    case = CASES["same-step-kv"]
    for strategy in (DualParal(3, 1, "together"), DualParal(3, 1, "apart")):
        for (events,) in rank_pool(3).run(run_requests, strategy, [case]):
            assert tasks_of(events) == list(case.workload.tasks())


def close_everywhere(
    communicator: Communicator, strategy: ParallelStrategy, case: TinyCase, counts: Sequence[int]
) -> list[tuple[list[Progress], list[Progress]]]:
    return [
        close_early(communicator, strategy, case, count, CASES["one-block"]) for count in counts
    ]


@pytest.mark.parametrize(
    "strategy", [DualParal(3, 1, "together"), DualParal(2, 2)], ids=["stages", "cfg"]
)
def test_a_video_can_be_closed_after_any_event(strategy: DualParal) -> None:
    """All ranks end after the same task, and the next request finds no message of this one."""
    case, world_size = CASES["two-blocks"], 3 if strategy.stages == 3 else 4
    (whole,) = run_requests(Communicator.alone(), SingleDevice(), [case])
    counts = range(1, len(whole) + 1)
    ranks = rank_pool(world_size).run(close_everywhere, strategy, case, counts)
    (expected,) = serial("one-block")
    for outcomes in zip(*ranks, strict=True):
        output, *others = (tasks_of(closed) for closed, _ in outcomes)
        assert all(other == others[0] for other in others)
        assert others[0][: len(output)] == output, "what was begun is brought to its end"
        (block,) = (event for event in outcomes[0][1] if isinstance(event, BlockDone))
        torch.testing.assert_close(block.latents, expected, rtol=1e-4, atol=1e-4)


def tasks_of(events: list[Progress]) -> list[Task]:
    return [event.task for event in events if isinstance(event, TaskDone)]
