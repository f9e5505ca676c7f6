"""Random schedules and caches on stages: bit for bit what one device makes, as planned."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tests.unit.strategies.random_cases import SEEDS, random_case

from longtake.plan.check.validator import validate
from longtake.plan.ir.run import compile_run, mesh_actions
from longtake.strategies import ActionDone, BlockDone, Communicator, DualParal, SingleDevice
from longtake.testing.contracts.strategy_runs import run_requests
from longtake.testing.ranks import rank_pool


@cache
def serial(seed: int) -> list[BlockDone]:
    (events,) = run_requests(Communicator.alone(), SingleDevice(), [random_case(seed)])
    return [event for event in events if isinstance(event, BlockDone)]


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_case_on_stages_is_bit_equal_and_as_planned(seed: int, stages: int) -> None:
    case = random_case(seed)
    strategy = DualParal(stages=stages, cfg=1, guidance="together")
    layout = strategy.layout(stages, case.workload)
    validate(list(compile_run(layout, case.workload, strategy.actions)), layout)
    ranks = [events for (events,) in rank_pool(stages).run(run_requests, strategy, [case])]
    blocks = [event for event in ranks[layout.output_rank] if isinstance(event, BlockDone)]
    expected = serial(seed)
    assert [block.frames for block in blocks] == [block.frames for block in expected]
    for block, one in zip(blocks, expected, strict=True):
        assert torch.equal(block.latents, one.latents), f"block {block.block} of {case}"
    for rank, events in enumerate(ranks):
        planned = mesh_actions(strategy.actions, case.workload.forwards(), 0, layout, rank)
        assert [event.action for event in events if isinstance(event, ActionDone)] == list(planned)
