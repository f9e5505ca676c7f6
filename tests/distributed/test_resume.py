"""Requests that go on elsewhere: cut on some number of stages, gone on with on another."""

from __future__ import annotations

import pytest
import torch

from longtake.strategies import BlockDone, Communicator, DualParal, ParallelStrategy, SingleDevice
from longtake.strategies.runtime.cuts import CutState
from longtake.testing.contracts.strategy_cases import CASES
from longtake.testing.contracts.strategy_runs import serial
from longtake.testing.ranks import rank_pool
from longtake.testing.resumption import run_cut
from longtake.testing.tiny.base import TinyCase

WAYS = [(1, 2, 3), (2, 3, 1), (3, 1, 2)]
"""Stages on which a request begins, goes on and ends."""


def strategy_on(stages: int) -> ParallelStrategy:
    if stages == 1:
        return SingleDevice()
    return DualParal(stages=stages, cfg=1, guidance="together", decode_devices=0)


def on_stages(
    stages: int, case: TinyCase, cut: int | None, state: CutState | None
) -> tuple[list[BlockDone], CutState | None]:
    before = () if cut is None else (cut,)
    args = (strategy_on(stages), case, before, None, state)
    if stages == 1:
        ranks = [run_cut(Communicator.alone(), *args)]
    else:
        ranks = rank_pool(stages).run(run_cut, *args)
    held = None if cut is None else CutState.joined(states[0] for _, states in ranks)
    return ranks[0][0], held


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way)))
@pytest.mark.parametrize(
    "name", ["stride-2-same-step-kv", "cascade", "rolling-window", "context-windows", "frame-queue"]
)
def test_a_request_goes_on_with_another_number_of_stages(
    name: str, way: tuple[int, int, int]
) -> None:
    """Bit-equal, whoever has saved what another reads."""
    case, expected = CASES[name], serial(name)
    tasks = len(list(case.workload.tasks()))
    cuts = (tasks // 3, 2 * tasks // 3, None)
    state: CutState | None = None
    blocks: list[BlockDone] = []
    begun = 0
    for stages, cut in zip(way, cuts, strict=True):
        made, held = on_stages(stages, case, cut, state)
        # What it makes after the cut as well is made again: the run is killed there.
        done = list(case.workload.tasks())[begun:cut]
        finished = {run.block for task in done for run in task.finished}
        blocks += [block for block in made if block.block in finished]
        state, begun = held, cut or 0
    assert [block.block for block in blocks] == list(range(len(expected)))
    for block in blocks:
        assert torch.equal(block.latents, expected[block.block]), f"block {block.block}"
