"""HunyuanVideo on ranks: text tokens travel with the video tokens, wherever layers are divided."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from longtake.caches import FeatureCache, NextBlockKV, SameStepKV
from longtake.plan.mesh import Mesh
from longtake.strategies import BlockDone, Communicator, DualParal, Layout, SingleDevice
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import LAYERS, TinyCase
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_denoising

STAGES = {1: [4], 2: [2, 2], 3: [1, 2, 1], 4: [1, 1, 1, 1]}
"""Layers of each stage: cut between dual and single layers, and within both."""


@torch.no_grad()
def run(communicator: Communicator, case: TinyCase, layout: Layout) -> Sequence[Tensor]:
    """Return the blocks, on the output rank."""
    strategy = SingleDevice() if communicator.world_size == 1 else DualParal()
    work = tiny_hunyuan_denoising(case, layout.layers(communicator.rank), communicator)
    events = strategy.run(work, layout, communicator.rank)
    return [event.latents for event in events if isinstance(event, BlockDone)]


def laid_out(mesh: Mesh, branches: int, apart: bool = False) -> Layout:
    sizes = STAGES[mesh.pipe]
    stages = tuple(range(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes)))
    batches = (range(1), range(1, 2)) if apart else (range(branches),)
    return Layout(mesh=mesh, stages=stages, batches=batches)


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["embedded", "both"])
@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV()], ids=["next", "same"])
@pytest.mark.parametrize(
    ("mesh", "tolerance"),
    [
        (Mesh(pipe=2), 0.0),
        (Mesh(pipe=3), 0.0),
        # Other operand shapes sum in another order; several steps amplify it.
        (Mesh(ulysses=2), 1e-4),
        (Mesh(ring=2), 1e-4),
        (Mesh(ring=3), 1e-4),
        (Mesh(pipe=2, ring=2), 1e-4),
        (Mesh(ring=2, ulysses=2), 1e-4),
    ],
    ids=str,
)
def test_ranks_make_the_video_of_the_serial_run(
    mesh: Mesh, tolerance: float, cache: FeatureCache, scale: float
) -> None:
    case = TinyCase(cache=cache, scales=(scale,))
    branches = 2 if scale > 1 else 1
    expected = run(Communicator.alone(), case, Layout.serial(LAYERS, branches))
    found = rank_pool(mesh.size).run(run, case, laid_out(mesh, branches))[0]
    for block, whole in zip(found, expected, strict=True):
        assert (block - whole).abs().max() <= tolerance * whole.abs().max()
