"""The example of a strategy with an order of actions of its own keeps the contract."""

from __future__ import annotations

import pytest

from longtake.errors import ConfigurationError
from longtake.plan.ir.actions import Advance, Open
from longtake.plan.ir.run import compile_run
from longtake.strategies import DualParal, ParallelStrategy
from longtake.testing.contracts import ParallelStrategyContract
from longtake.testing.contracts.strategy_cases import CASES
from two_rank_strategy import Lockstep


class TestLockstep(ParallelStrategyContract):
    world_size = 2
    impossible = (0, 1, 3)

    def strategy(self) -> ParallelStrategy:
        return Lockstep()


class TestLockstepUneven(ParallelStrategyContract):
    world_size = 2
    part = slice(0, None, 3)
    impossible = (0, 1, 3)

    def strategy(self) -> ParallelStrategy:
        return Lockstep(first_layers=1)


def most_under_way(strategy: ParallelStrategy) -> int:
    """Return how many tasks the output rank has begun at once, at most."""
    case = CASES["six-blocks-in-flight"]
    layout = strategy.layout(2, case.workload)
    under_way = most = 0
    for action in compile_run(layout, case.workload, strategy.actions)[0]:
        under_way += isinstance(action, Open)
        under_way -= isinstance(action, Advance)
        most = max(most, under_way)
    return most


def test_its_order_is_another_than_that_of_dualparal() -> None:
    assert most_under_way(Lockstep()) == 2
    assert most_under_way(DualParal(cfg=1, guidance="together")) == 5


def test_a_stage_without_layers_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"first_layers is 4 of 4 layers.*choose 1 to 3"):
        Lockstep(first_layers=4).layout(2, CASES["next-block-kv"].workload)
