"""Stochastic samplers give every strategy the same video."""

from __future__ import annotations

import pytest
import torch

from longtake.strategies import BlockDone, Communicator, DualParal, Progress, SingleDevice
from longtake.testing.contracts.strategy_runs import run_requests
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import TinyCase

# numpy's complaint about diffusers' DPM-Solver++, harmless.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SAMPLERS = ["FlowMatchEulerDiscreteScheduler-stochastic", "DPMSolverMultistepScheduler-sde"]


def latents_of(events: list[Progress]) -> list[torch.Tensor]:
    return [event.latents for event in events if isinstance(event, BlockDone)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_two_stages_are_bit_equal_to_one_device(sampler: str) -> None:
    case = TinyCase(sampler=sampler)
    (events,) = run_requests(Communicator.alone(), SingleDevice(), [case])
    expected = latents_of(events)
    strategy = DualParal(stages=2, cfg=1, guidance="together")
    found = [latents_of(events) for (events,) in rank_pool(2).run(run_requests, strategy, [case])]
    (blocks,) = [one for one in found if one]
    assert len(blocks) == len(expected) > 1
    assert all(torch.equal(a, b) for a, b in zip(blocks, expected, strict=True))
