"""What is planned is what is done; the largest mesh."""

from __future__ import annotations

import torch

from longtake.plan.ir.actions import Action
from longtake.plan.ir.run import mesh_actions
from longtake.strategies import ActionDone, BlockDone, Communicator, DualParal, ParallelStrategy
from longtake.testing.contracts.strategy_cases import CASES
from longtake.testing.contracts.strategy_runs import serial
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import tiny_denoising

CASE = "next-block-kv"


@torch.no_grad()
def run_on(
    communicator: Communicator, strategy: ParallelStrategy
) -> tuple[list[Action], list[torch.Tensor]]:
    """Return the actions that this rank has done, and the blocks that it yielded."""
    case = CASES[CASE]
    layout = strategy.layout(communicator.world_size, case.workload)
    work = tiny_denoising(case, layout.layers(communicator.rank), communicator)
    events = list(strategy.run(work, layout, communicator.rank))
    return (
        [event.action for event in events if isinstance(event, ActionDone)],
        [event.latents for event in events if isinstance(event, BlockDone)],
    )


def test_ranks_do_what_was_compiled_and_nothing_else() -> None:
    strategy, workload = DualParal(stages=2, cfg=2), CASES[CASE].workload
    layout = strategy.layout(4, workload)
    for rank, (done, _) in enumerate(rank_pool(4).run(run_on, strategy)):
        planned = mesh_actions(strategy.actions, workload.forwards(), 0, layout, rank)
        assert done == list(planned)


def test_stages_ulysses_and_guidance_on_8_ranks_are_the_serial_run() -> None:
    ranks = rank_pool(8).run(run_on, DualParal(stages=2, ulysses=2, cfg=2))
    rank_pool(8).close()
    found, expected = torch.cat(ranks[0][1], dim=2), torch.cat(serial(CASE), dim=2)
    # Shares of heads and branches change operand shapes.
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
