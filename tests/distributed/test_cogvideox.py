"""CogVideoX on ranks: text tokens travel with the video tokens, and so do added positions.

Three heads on two devices, and tokens that no degree divides.
"""

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
from longtake.testing.tiny.cogvideox import tiny_cogvideox_denoising

STAGES = {1: [4], 2: [2, 2], 3: [1, 2, 1]}
"""Layers of each stage."""


@torch.no_grad()
def run(
    communicator: Communicator, case: TinyCase, rotary: bool, layout: Layout
) -> Sequence[Tensor]:
    """Return the blocks, on the output rank."""
    strategy = SingleDevice() if communicator.world_size == 1 else DualParal()
    work = tiny_cogvideox_denoising(case, layout.layers(communicator.rank), communicator, rotary)
    events = strategy.run(work, layout, communicator.rank)
    return [event.latents for event in events if isinstance(event, BlockDone)]


def laid_out(mesh: Mesh, branches: int) -> Layout:
    sizes = STAGES[mesh.pipe]
    stages = tuple(range(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes)))
    return Layout(mesh=mesh, stages=stages, batches=(range(branches),))


@pytest.mark.parametrize("rotary", [True, False], ids=["rotary", "waves"])
@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV()], ids=["next", "same"])
@pytest.mark.parametrize(
    ("mesh", "tolerance"),
    [
        (Mesh(pipe=2), 0.0),
        (Mesh(pipe=3), 0.0),
        # Other operand shapes sum in another order; several steps amplify it.
        (Mesh(ulysses=2), 1e-4),
        (Mesh(ring=3), 1e-4),
        (Mesh(pipe=2, ring=2), 1e-4),
        (Mesh(ring=2, ulysses=2), 1e-4),
    ],
    ids=str,
)
def test_ranks_make_the_video_of_the_serial_run(
    mesh: Mesh, tolerance: float, cache: FeatureCache, rotary: bool
) -> None:
    case = TinyCase(cache=cache)
    expected = run(Communicator.alone(), case, rotary, Layout.serial(LAYERS, 2))
    found = rank_pool(mesh.size).run(run, case, rotary, laid_out(mesh, 2))[0]
    for block, whole in zip(found, expected, strict=True):
        assert (block - whole).abs().max() <= tolerance * whole.abs().max()


def test_guidance_off_is_one_branch() -> None:
    case = TinyCase(scales=(1.0,))
    expected = run(Communicator.alone(), case, True, Layout.serial(LAYERS, 1))
    found = rank_pool(2).run(run, case, True, laid_out(Mesh(pipe=2), 1))[0]
    assert all(torch.equal(block, whole) for block, whole in zip(found, expected, strict=True))
