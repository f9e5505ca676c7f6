"""The bundled model makes what the prompt says: a shape of the right color, in one long take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from longtake.caches import FeatureCache, NextBlockKV, SameStepKV
from longtake.demo.judge import adherence, seam_steps
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.models.loading.folder import BUNDLED
from longtake.schedulers import FifoQueue, FullSequence
from longtake.strategies import SingleDevice

RECIPE = GenerationConfig(
    pipeline="demo", scheduler=FifoQueue(8, 8), steps=16, guidance_scale=2.0, dtype="float32"
)
PROMPTS = [
    # Every color, shape, motion and background at least twice.
    "a red circle moving diagonally on a teal background",
    "a green square moving horizontally on a black background",
    "a blue triangle moving vertically on a gray background",
    "a yellow circle moving horizontally on an orange background",
    "a purple square moving diagonally on a gray background",
    "a white triangle moving diagonally on a black background",
    "a red square moving vertically on a black background",
    "a green triangle moving diagonally on an orange background",
    "a blue circle moving horizontally on a teal background",
    "a yellow triangle moving vertically on a teal background",
    "a purple circle moving vertically on an orange background",
    "a white square moving horizontally on a gray background",
]
LONG_PROMPTS = PROMPTS[0], PROMPTS[6], PROMPTS[8]


def make(generation_config: GenerationConfig, prompt: str, num_frames: int) -> Tensor:
    """Return a video's frames ``(F, H, W, 3)``."""
    request = Request(
        prompts=(PromptAt(text=prompt),), num_frames=num_frames, height=64, width=64, seed=1
    )
    events = Engine(generation_config, SingleDevice()).generate(request)
    return torch.cat([event.frames for event in events if isinstance(event, FramesDecoded)])


def test_the_model_is_small_and_whole() -> None:
    files = [file for file in BUNDLED["demo"].rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 20e6
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md"}
    assert Engine(RECIPE, SingleDevice()).model.spec.layers == 8


@pytest.mark.slow
def test_a_clip_shows_what_its_prompt_says() -> None:
    clip = replace(RECIPE, scheduler=FullSequence())
    shares = {prompt: adherence(make(clip, prompt, 33), prompt) for prompt in PROMPTS}
    assert sum(shares.values()) / len(shares) >= 0.9, shares


@pytest.mark.slow
@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV()], ids=lambda c: type(c).__name__)
def test_a_long_video_stays_with_its_prompt_and_moves_on_across_seams(cache: FeatureCache) -> None:
    generation_config = replace(RECIPE, cache=cache)
    starts = [block.start for block in generation_config.scheduler.blocks(65)][1:]
    seams = [1 + 4 * (start - 1) for start in starts]
    shares, steps = {}, []
    for prompt in LONG_PROMPTS:
        frames = make(generation_config, prompt, 257)
        shares[prompt] = adherence(frames, prompt)
        steps += seam_steps(frames, seams)
    assert sum(shares.values()) / len(shares) >= 0.85, shares
    # In median steps of the object per frame, over all seams; a single one may be larger.
    assert torch.tensor(steps).nanmean() <= 2, steps


def test_the_pipeline_is_diffusers_own(tmp_path: Path) -> None:
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(BUNDLED["demo"])
    names = {name: type(part).__name__ for name, part in pipeline.components.items() if part}
    assert names["transformer"] == "WanTransformer3DModel"
    assert names["vae"] == "AutoencoderKLWan"
    assert names["text_encoder"] == "UMT5EncoderModel"
