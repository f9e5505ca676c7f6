"""Videos on a GPU: the same as on the CPU, up to rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.framework.trainer import InferenceTrainer
from longtake.schedulers import FifoQueue
from longtake.strategies import BlockDone, SingleDevice
from longtake.testing.tiny.base import tiny_wan_folder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("cache", [NoCache(), NextBlockKV(), SameStepKV()], ids=str)
def test_a_gpu_makes_the_video_of_the_cpu(tmp_path: Path, cache: FeatureCache) -> None:
    folder = tiny_wan_folder(tmp_path / "tiny")
    generation_config = GenerationConfig(
        pipeline=str(folder.path), scheduler=FifoQueue(3, 2), cache=cache, steps=3, dtype="float32"
    )
    request = Request(prompts=(PromptAt(text="bird"),), num_frames=37, height=32, width=48)
    videos = []
    for device in ("cpu", "cuda"):
        events = Engine(generation_config, SingleDevice(), device=device).generate(request)
        blocks = [event.latents.cpu() for event in events if isinstance(event, BlockDone)]
        videos.append(torch.cat(blocks, dim=2))
    # fp32 kernels of the two devices sum in other orders; guidance 5 amplifies that.
    torch.testing.assert_close(videos[0], videos[1], rtol=0, atol=1e-3)


def test_bfloat16_stays_on_the_gpu_until_frames_are_made(tmp_path: Path) -> None:
    generation_config = GenerationConfig(
        pipeline=str(tiny_wan_folder(tmp_path / "tiny").path), steps=2
    )
    request = Request(prompts=(PromptAt(text="bird"),), num_frames=9, height=32, width=48)
    engine = Engine(replace(generation_config, dtype="bfloat16"), SingleDevice(), device="cuda")
    blocks = [event.latents for event in engine.generate(request) if isinstance(event, BlockDone)]
    assert {(block.device.type, block.dtype) for block in blocks} == {("cuda", torch.float32)}


def test_a_deterministic_run_repeats_itself_to_the_bit(tmp_path: Path) -> None:
    generation_config = GenerationConfig(
        pipeline=str(tiny_wan_folder(tmp_path / "tiny").path), steps=2, dtype="float32"
    )
    request = Request(prompts=(PromptAt(text="bird"),), num_frames=9, height=32, width=48)
    InferenceTrainer(accelerator="cuda", deterministic=True)
    videos = []
    for _ in range(2):
        events = Engine(generation_config, SingleDevice(), device="cuda").generate(request)
        videos.append([event.frames for event in events if isinstance(event, FramesDecoded)])
    assert videos[0]
    assert all(torch.equal(a, b) for a, b in zip(*videos, strict=True))
