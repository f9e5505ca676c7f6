"""Layers that are reused on ranks: one decision for all of them, the serial run's video."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final

import pytest
import torch
from torch import Tensor

from longtake.caches import NextBlockKV, NoCache, SameStepKV
from longtake.plan.ir.actions import Compute
from longtake.reuse import AccumulatedChange, FirstBlockCache
from longtake.schedulers import FifoQueue
from longtake.strategies import (
    ActionDone,
    Communicator,
    DualParal,
    ParallelStrategy,
    Progress,
    SequenceParallel,
    SingleDevice,
)
from longtake.strategies.runtime.cuts import CutState
from longtake.testing.contracts.strategy_cases import CASES
from longtake.testing.contracts.strategy_runs import (
    blocks_of,
    run_requests,
    run_under_cuda_rules,
)
from longtake.testing.cuda_rules.order import misordered
from longtake.testing.ranks import rank_pool
from longtake.testing.resumption import run_cut, run_on
from longtake.testing.tiny.base import TinyCase

QUEUE: Final = TinyCase(scheduler=FifoQueue(3, 2), cache=NoCache(), steps=8, latent_frames=11)
REUSED: Final = {
    "queue": replace(QUEUE, reuse=FirstBlockCache(0.45)),
    "queue, accumulated": replace(QUEUE, reuse=AccumulatedChange(1.0)),
    "queue, kept": replace(QUEUE, cache=NextBlockKV(), reuse=FirstBlockCache(0.45)),
    "queue, kept by step": replace(QUEUE, cache=SameStepKV(), reuse=FirstBlockCache(0.45)),
    "causal": replace(CASES["cascade-stride-2-recache"], steps=8, reuse=FirstBlockCache(0.8)),
    "windows": replace(CASES["context-windows"], steps=8, reuse=FirstBlockCache(0.45)),
}
STRATEGIES: Final[dict[str, ParallelStrategy]] = {
    "stages": DualParal(stages=2, cfg=1, guidance="together"),
    "apart": DualParal(stages=2, cfg=1, guidance="apart"),
    "cfg": DualParal(stages=1, cfg=2),
    "ulysses": SequenceParallel(ulysses=2, ring=1, cfg=1),
    "ring": SequenceParallel(ulysses=1, ring=2, cfg=1),
}
TOLERANCE: Final = {"stages": 0.0}
"""Of the others to rounding: operands have other shapes."""


def words(events: list[Progress]) -> list[tuple[int, bool]]:
    """Return task by task whether layers were reused."""
    return [
        (event.action.index, event.reused)
        for event in events
        if isinstance(event, ActionDone) and isinstance(event.action, Compute)
    ]


@cache
def serial(name: str) -> tuple[list[tuple[int, bool]], list[Tensor]]:
    (events,) = run_requests(Communicator.alone(), SingleDevice(), [REUSED[name]])
    return words(events), [block.latents for block in blocks_of(events)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", REUSED)
def test_all_ranks_decide_alike_and_as_one_device(name: str, strategy: str) -> None:
    expected, blocks = serial(name)
    assert any(reused for _, reused in expected)
    assert not all(reused for _, reused in expected)
    ranks = rank_pool(2).run(run_requests, STRATEGIES[strategy], [REUSED[name]])
    lists = [list(dict.fromkeys(words(events))) for (events,) in ranks]
    assert lists[0] == lists[1] == expected
    for block, latents in zip(blocks_of(ranks[0][0]), blocks, strict=True):
        difference = (block.latents - latents).abs().max() / latents.abs().max()
        assert difference <= TOLERANCE.get(strategy, 1e-4)


@pytest.mark.parametrize("strategy", ["stages", "ulysses"])
@pytest.mark.parametrize("name", ["queue", "queue, kept"])
def test_a_request_goes_on_with_what_was_known(name: str, strategy: str) -> None:
    case, (_, blocks) = REUSED[name], serial(name)
    tasks = len(list(case.workload.tasks()))
    ranks = rank_pool(2).run(run_cut, STRATEGIES[strategy], case, [tasks // 2])
    state = CutState.joined(states[0] for _, states in ranks)
    assert state.facts["reuse"]
    rest = rank_pool(2).run(run_on, STRATEGIES[strategy], case, state)[0]
    assert rest
    for block in rest:
        expected = blocks[block.block]
        difference = (block.latents - expected).abs().max() / expected.abs().max()
        assert difference <= TOLERANCE.get(strategy, 1e-4)
    if strategy == "stages":
        alone = run_on(Communicator.alone(), SingleDevice(), case, state)
        assert torch.equal(alone[-1].latents, blocks[-1]), "on another number of stages"


def test_two_requests_share_nothing() -> None:
    case = REUSED["queue"]
    ranks = rank_pool(2).run(run_requests, STRATEGIES["stages"], [case, case])
    for first, second in ranks:
        assert words(first) == words(second)


@pytest.mark.parametrize("strategy", ["stages", "cfg", "ulysses"])
def test_no_device_would_hang(strategy: str) -> None:
    ranks = rank_pool(2).run(run_under_cuda_rules, STRATEGIES[strategy], REUSED["queue"])
    assert not misordered([log for _, log in ranks])
    lists = [list(dict.fromkeys(words(events))) for events, _ in ranks]
    assert lists[0] == lists[1] == serial("queue")[0]
