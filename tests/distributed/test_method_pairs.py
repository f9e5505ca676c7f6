"""Every scheduler with every cache that it is not refused with, on two ranks and on one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from longtake.strategies import (
    BlockDone,
    Communicator,
    DualParal,
    ParallelStrategy,
    Progress,
    SequenceParallel,
    SingleDevice,
)
from longtake.testing.contracts.strategy_runs import run_requests
from longtake.testing.pairs import SCHEDULERS, allowed
from longtake.testing.ranks import rank_pool

# Shares of heads change operand shapes: rounding, which a few steps with guidance amplify.
ROUNDING = 1e-5


def latents_of(events: list[Progress]) -> Tensor:
    """Return a whole video's latents as a rank has yielded them."""
    return torch.cat([done.latents for done in events if isinstance(done, BlockDone)], dim=2)


@pytest.mark.parametrize(
    ("strategy", "tolerance"),
    [
        (DualParal(stages=2, cfg=1, guidance="together"), 0.0),
        (SequenceParallel(ulysses=2, ring=1, cfg=1), ROUNDING),
    ],
    ids=["2 stages", "Ulysses 2"],
)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_pair_makes_the_serial_video(
    scheduler: str, strategy: ParallelStrategy, tolerance: float
) -> None:
    cases = allowed(scheduler)
    alone = run_requests(Communicator.alone(), SingleDevice(), list(cases.values()))
    together = rank_pool(2).run(run_requests, strategy, list(cases.values()))[0]
    for name, found, expected in zip(cases, together, alone, strict=True):
        serial = latents_of(expected)
        assert serial.shape[2] == cases[name].latent_frames
        difference = (latents_of(found) - serial).abs().max() / serial.abs().max()
        assert difference <= tolerance, f"{scheduler} with {name}: {difference:.1e}"
