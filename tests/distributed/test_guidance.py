"""Guidance on ranks: three branches, and what is kept of a block, wherever they are joined."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Final

import pytest
import torch
from torch import Tensor

from longtake.guidance import AdaptiveProjectedGuidance, PerturbedAttentionGuidance
from longtake.strategies import (
    Communicator,
    DualParal,
    ParallelStrategy,
    SequenceParallel,
    SingleDevice,
)
from longtake.strategies.runtime.cuts import CutState
from longtake.testing.contracts.strategy_cases import CASES
from longtake.testing.contracts.strategy_runs import blocks_of, run_requests
from longtake.testing.ranks import rank_pool
from longtake.testing.resumption import run_cut, run_on
from longtake.testing.tiny.base import TinyCase

PROJECTED: Final = partial(AdaptiveProjectedGuidance, momentum=-0.5, norm=1.0, eta=0.2)
PERTURBED: Final = partial(PerturbedAttentionGuidance, layers=[1, 2], weakened_stop=0.8)
GUIDED: Final = {
    "projected": replace(CASES["five-blocks"], guidance=PROJECTED),
    "projected, windows": replace(CASES["context-windows"], guidance=PROJECTED),
    "perturbed": replace(CASES["five-blocks"], guidance=PERTURBED),
}
STRATEGIES: Final[dict[str, ParallelStrategy]] = {
    "stages": DualParal(stages=2, cfg=1, guidance="together"),
    "apart": DualParal(stages=2, cfg=1, guidance="apart"),
    "cfg": DualParal(stages=1, cfg=2),
    "ulysses": SequenceParallel(ulysses=2, ring=1, cfg=1),
}
# Other operand shapes round otherwise; APG divides by the norm of a difference.
TOLERANCE: Final = {"stages": 0.0, "apart": 1e-4, "cfg": 1e-4, "ulysses": 1e-4}


@cache
def serial(name: str) -> list[Tensor]:
    (events,) = run_requests(Communicator.alone(), SingleDevice(), [GUIDED[name]])
    return [block.latents for block in blocks_of(events)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", GUIDED)
def test_a_video_is_that_of_the_serial_run(name: str, strategy: str) -> None:
    ranks = rank_pool(2).run(run_requests, STRATEGIES[strategy], [GUIDED[name]])
    made = [block.latents for block in blocks_of(ranks[0][0])]
    assert len(made) == len(serial(name))
    for block, expected in zip(made, serial(name), strict=True):
        difference = (block - expected).abs().max() / expected.abs().max()
        assert difference <= TOLERANCE[strategy]


@pytest.mark.parametrize("name", ["projected", "projected, windows"])
def test_a_request_goes_on_with_what_was_kept_of_its_blocks(name: str) -> None:
    case = GUIDED[name]
    tasks = len(list(case.workload.tasks()))
    ranks = rank_pool(2).run(run_cut, STRATEGIES["stages"], case, [tasks // 2])
    state = CutState.joined(states[0] for _, states in ranks)
    assert state.facts["guidance"], "nothing is kept"
    rest = rank_pool(2).run(run_on, STRATEGIES["stages"], case, state)[0]
    assert rest
    for block in rest:
        assert torch.equal(block.latents, serial(name)[block.block])
    alone = run_on(Communicator.alone(), SingleDevice(), case, state)
    assert torch.equal(alone[-1].latents, serial(name)[-1]), "on another number of stages"
    forgotten = replace(state, facts={**state.facts, "guidance": []})
    lost = run_on(Communicator.alone(), SingleDevice(), case, forgotten)
    assert not torch.equal(lost[-1].latents, serial(name)[-1]), "what is kept does not count"


def test_a_third_branch_is_planned() -> None:
    plain: TinyCase = CASES["five-blocks"]
    for strategy in (STRATEGIES["stages"], STRATEGIES["cfg"], STRATEGIES["apart"]):
        assert isinstance(strategy, DualParal)
        two, three = (
            strategy.layout(2, case.workload).batches for case in (plain, GUIDED["perturbed"])
        )
        assert (two[-1].stop, three[-1].stop) == (2, 3)
    assert STRATEGIES["cfg"].layout(2, GUIDED["perturbed"].workload).batches == (
        range(1),
        range(1, 3),
    )
