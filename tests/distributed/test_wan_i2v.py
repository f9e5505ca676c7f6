"""Given frames on ranks: the same video, wherever layers, tokens and branches run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from longtake.caches import FeatureCache, NextBlockKV, SameStepKV
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.plan.mesh import Mesh
from longtake.schedulers import FifoQueue
from longtake.strategies import (
    BlockDone,
    Communicator,
    Denoising,
    DualParal,
    Layout,
    ParallelStrategy,
    SingleDevice,
)
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import LAYERS, TinyCase, tiny_denoising, tiny_wan_folder
from longtake.testing.tiny.wan_i2v import tiny_start, tiny_wan_i2v_denoising, tiny_wan_i2v_folder

STAGES = {1: [4], 2: [3, 1], 3: [1, 2, 1]}


@dataclass(frozen=True, slots=True)
class Given:
    """A denoising that starts from given frames.

    Args:
        case: What is denoised.
        known: Latent frames that take the place of noise; 0 for a model with channels for them.
    """

    case: TinyCase
    known: int = 0

    def work(self, layers: Sequence[int], communicator: Communicator) -> Denoising:
        """Return the work of one rank."""
        if not self.known:
            return tiny_wan_i2v_denoising(self.case, layers, communicator)
        return replace(
            tiny_denoising(self.case, layers, communicator), start=tiny_start(self.known)
        )


@torch.no_grad()
def run(communicator: Communicator, given: Given, layout: Layout) -> Sequence[Tensor]:
    """Return the blocks, on the output rank."""
    strategy = SingleDevice() if communicator.world_size == 1 else DualParal()
    events = strategy.run(
        given.work(layout.layers(communicator.rank), communicator), layout, communicator.rank
    )
    return [event.latents for event in events if isinstance(event, BlockDone)]


def laid_out(mesh: Mesh) -> Layout:
    sizes = STAGES[mesh.pipe]
    stages = tuple(range(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes)))
    return Layout(mesh=mesh, stages=stages, batches=(range(2),))


@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV()], ids=["next", "same"])
@pytest.mark.parametrize("model", ["2.1", "2.2", "replaced"])
@pytest.mark.parametrize(
    ("mesh", "tolerance"),
    [
        (Mesh(pipe=2), 0.0),
        (Mesh(pipe=3), 0.0),
        # Other operand shapes sum in another order; several steps amplify it.
        (Mesh(ulysses=2), 1e-4),
        (Mesh(ring=2), 1e-4),
        (Mesh(pipe=2, ring=2), 1e-4),
    ],
    ids=str,
)
def test_ranks_make_the_video_of_the_serial_run(
    mesh: Mesh, tolerance: float, model: str, cache: FeatureCache
) -> None:
    case = TinyCase(cache=cache, scales=(3.0, 2.0) if model == "2.2" else (3.0,))
    given = Given(case, known=7 if model == "replaced" else 0)
    expected = run(Communicator.alone(), given, Layout.serial(LAYERS, 2))
    found = rank_pool(mesh.size).run(run, given, laid_out(mesh))[0]
    for block, whole in zip(found, expected, strict=True):
        assert (block - whole).abs().max() <= tolerance * whole.abs().max()


def frames(
    communicator: Communicator, generation_config: GenerationConfig, request: Request
) -> Tensor | None:
    """Return the video that the engine makes, on the output rank."""
    strategy: ParallelStrategy = SingleDevice()
    if communicator.world_size > 1:
        strategy = DualParal(split=[2, 2], guidance="together")
    engine = Engine(
        generation_config, strategy, world_size=communicator.world_size, rank=communicator.rank
    )
    engine.check([request])
    engine.join(communicator)
    decoded = [
        event.frames for event in engine.generate(request) if isinstance(event, FramesDecoded)
    ]
    return torch.cat(decoded) if decoded else None


@pytest.mark.parametrize("model", ["2.1", "2.2", "text"])
def test_what_one_rank_encodes_all_ranks_see(model: str, tmp_path: Path) -> None:
    """Also those that embed nothing: cross-attention to an image runs in every stage."""
    if model == "text":
        tiny_wan_folder(tmp_path)
    else:
        tiny_wan_i2v_folder(tmp_path, experts=1 if model == "2.1" else 2)
    image = tmp_path / "first.png"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    generation_config = GenerationConfig(
        pipeline=str(tmp_path), scheduler=FifoQueue(3, 2), steps=2, dtype="float32"
    )
    request = Request(
        prompts=(PromptAt(text="red shape"),),
        num_frames=29,
        height=32,
        width=48,
        start=str(image),
    )
    expected = frames(Communicator.alone(), generation_config, request)
    found, nothing = rank_pool(2).run(frames, generation_config, request)
    assert nothing is None
    assert found is not None
    assert expected is not None
    assert torch.equal(found, expected)
