"""Given frames on ranks: what one encodes all see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.schedulers import FifoQueue
from longtake.strategies import Communicator, DualParal, ParallelStrategy, SingleDevice
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import tiny_wan_folder
from longtake.testing.tiny.wan_i2v import tiny_wan_i2v_folder


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
