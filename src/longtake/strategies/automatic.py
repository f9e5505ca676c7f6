"""Automatic strategy: a pipeline where tasks can be under way together, shared tokens elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, final

from typing_extensions import override

from longtake.caches import Forward
from longtake.plan.cost.ring_clock import RingClock
from longtake.plan.ir.actions import Action
from longtake.plan.layout import Layout
from longtake.plan.search.in_flight import of_workload
from longtake.plan.workload import Workload
from longtake.strategies.base import ParallelStrategy
from longtake.strategies.card import StrategyCard
from longtake.strategies.dual_paral import DualParal, ring_schedule
from longtake.strategies.planned import PlannedStrategy
from longtake.strategies.sequence_parallel import SequenceParallel

STAGES: Final = 2
"""The fewest stages there can be; with fewer tasks in flight they would idle."""


@final
class Automatic(ParallelStrategy):
    """Choose for users who have given no strategy: ``DualParal`` or ``SequenceParallel``.

    What decides is how many tasks of the method can be under way at once: blocks of a queue, or
    windows of one step. Where one waits for the other a pipeline would idle, and the tokens of
    each are shared instead.

    Args:
        data: Replicas, each with as many of the devices, which share the requests out; ``auto``
            weighs.
    """

    card = StrategyCard(
        splits="what the method suggests",
        purpose="what is taken where no strategy is given: DualParal where two tasks can be under "
        "way at once, SequenceParallel elsewhere",
        video="as that of the one taken",
    )
    decode_devices: int | Literal["auto"] = "auto"

    def __init__(self, data: int | Literal["auto"] = "auto") -> None:
        self.data = data

    @override
    def layout(self, world_size: int, workload: Workload) -> Layout:
        return strategy_for(workload).layout(world_size, workload)

    @override
    def alternatives(self, world_size: int, workload: Workload) -> list[Layout]:
        return strategy_for(workload).alternatives(world_size, workload)

    @override
    def clock(self, workload: Workload) -> RingClock:
        return RingClock(workload, self.actions)

    @override
    def actions(
        self,
        forwards: Iterable[Forward],
        request: int,
        layout: Layout,
        rank: int,
    ) -> Iterator[Action]:
        """Return those of a ring, of one stage or several: both strategies have the same."""
        return ring_schedule(forwards, layout, rank)


def strategy_for(workload: Workload) -> PlannedStrategy:
    """Return the strategy that suits a workload, with all options left to it."""
    return DualParal() if of_workload(workload, STAGES) >= STAGES else SequenceParallel()
