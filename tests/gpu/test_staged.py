"""Two ranks on one GPU, through host memory: NCCL refuses a shared GPU, ``staged`` does not."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor

from longtake.framework import Engine
from longtake.framework.launch.deterministic import use_full_precision
from longtake.plan.ir.actions import CHANNELS
from longtake.strategies import BlockDone, Communicator, SingleDevice
from longtake.testing.cuda_rules.runs import REQUEST, Cell
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import tiny_wan_folder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def blocks_of(
    communicator: Communicator, cell: Cell, folder: Path
) -> tuple[str | None, list[Tensor]]:
    use_full_precision()
    torch.cuda.set_device(0)
    ranks = Communicator.connect(torch.device("cuda", 0), CHANNELS, timedelta(seconds=60))
    engine = Engine(
        cell.generation_config(folder),
        cell.strategy,
        world_size=ranks.world_size,
        rank=ranks.rank,
        device="cuda:0",
    )
    engine.check([REQUEST])
    engine.join(ranks)
    events = list(engine.generate(REQUEST))
    ranks.close()
    blocks = [event.latents.cpu() for event in events if isinstance(event, BlockDone)]
    return ranks.transport_name, blocks


@pytest.mark.parametrize("mesh", ["stages 2", "ulysses 2", "ring 2", "cfg 2"])
def test_ranks_that_share_a_gpu_make_the_blocks_of_one(tmp_path: Path, mesh: str) -> None:
    cell = Cell(mesh=mesh, cache="next-block", decoders=0, aco=False)
    tiny_wan_folder(tmp_path / "tiny")
    (name, blocks), _ = rank_pool(2).run(blocks_of, cell, tmp_path / "tiny")
    assert name == "staged", "auto sees that the GPU is shared"
    engine = Engine(cell.generation_config(tmp_path / "tiny"), SingleDevice(), device="cuda")
    serial = [one.latents.cpu() for one in engine.generate(REQUEST) if isinstance(one, BlockDone)]
    for found, expected in zip(blocks, serial, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
