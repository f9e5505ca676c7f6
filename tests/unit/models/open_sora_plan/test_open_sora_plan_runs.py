"""Open-Sora-Plan's runs: the published sampling, the queue, and windows as the model sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from torch import Tensor

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
from longtake.models import (
    DiffusersSampler,
    ModelFolder,
    Placement,
    PromptStates,
    load_sampler,
)
from longtake.models.open_sora_plan import OpenSoraPlanFamily
from longtake.schedulers import FullSequence
from longtake.task import Video
from longtake.testing.runs import serial_video, video_of_windows
from longtake.testing.tiny.base import (
    HEIGHT,
    LAYERS,
    WIDTH,
    TinyCase,
    tiny_masked_prompts,
    tiny_scheduler,
)
from longtake.testing.tiny.open_sora_plan import (
    published_forward,
    tiny_open_sora_plan_denoising,
    tiny_open_sora_plan_folder,
    tiny_open_sora_plan_transformer,
)

PLACE = Placement(torch.device("cpu"), torch.float32)
STEPS, FRAMES = 4, 3
PROMPTS = ["red bird moves", ""]

# numpy's complaint about diffusers' schedulers of noise levels, harmless.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_open_sora_plan_folder(tmp_path_factory.mktemp("plan"))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_full_sequence_is_the_published_sampling_without_its_noise(
    folder: ModelFolder, scale: float
) -> None:
    noise = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    family = OpenSoraPlanFamily()
    states = family.encode_text(folder, PROMPTS, PLACE)
    expected = published_sampling(noise, states, scale)
    case = TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,))
    work = replace(
        tiny_open_sora_plan_denoising(case, prompts=states),
        backbone=family.load_backbone(folder, family.spec(folder), range(LAYERS), PLACE),
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise]),
        sampler=load_sampler(folder, None, None, STEPS),
    )
    found = serial_video(work)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert (found - noise).abs().max() > 0.1, "nothing has been denoised"


def published_sampling(noise: Tensor, states: PromptStates, scale: float) -> Tensor:
    """Sample as the published pipeline does, at its noise levels, but without fresh noise.

    In fp64: its latents begin at 4096 times the noise, where fp32 has an error of 1e-4.
    """
    scheduler = euler_ancestral()
    scheduler.set_timesteps(STEPS)
    sigmas, model = scheduler.sigmas.double(), tiny_open_sora_plan_transformer()
    latents: Tensor = noise.double() * sigmas[0]
    for timestep, sigma, lower in zip(scheduler.timesteps, sigmas, sigmas[1:], strict=False):
        spread = (sigma**2 + 1).sqrt()
        seen = (latents / spread).float().expand(2, -1, -1, -1, -1)
        positive, negative = published_forward(model, seen, float(timestep), states).double()
        guided = negative + scale * (positive - negative)
        clip = latents / spread**2 - guided * sigma / spread
        latents += (latents - clip) / sigma * (lower - sigma)
    return latents.float()


def euler_ancestral() -> Any:
    """Return the published scheduler."""
    return EulerAncestralDiscreteScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )


def test_the_published_sampler_and_its_deterministic_variant(
    folder: ModelFolder, tmp_path: Path
) -> None:
    euler_ancestral().save_pretrained(tmp_path / "scheduler")
    index = folder.index | {"scheduler": ["diffusers", "EulerAncestralDiscreteScheduler"]}
    published = ModelFolder(tmp_path, index)
    assert load_sampler(published, None, None, STEPS).stochastic
    given = load_sampler(published, "DPMSolverMultistepScheduler", None, STEPS)
    assert given.timesteps == load_sampler(folder, None, None, STEPS).timesteps


@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV(), NoCache()], ids=repr)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_queue_runs_with_every_cache(cache: FeatureCache, scale: float) -> None:
    video = serial_video(tiny_open_sora_plan_denoising(TinyCase(cache=cache, scales=(scale,))))
    assert video.shape == (1, 4, 11, HEIGHT, WIDTH)
    assert video.isfinite().all()


def test_without_a_cache_every_task_is_the_models_own_forward_of_its_window() -> None:
    """Which groups tokens from the start of every window: 6 tokens per frame, not 16."""
    case = TinyCase(cache=NoCache(), scales=(1.0,))
    prompts, model = tiny_masked_prompts(1), tiny_open_sora_plan_transformer()
    sampler = DiffusersSampler(tiny_scheduler(case.sampler), case.steps)

    def predict(window: Tensor, timestep: float) -> Tensor:
        return published_forward(model, window, timestep, prompts)

    found, expected = (
        serial_video(tiny_open_sora_plan_denoising(case)),
        video_of_windows(case, sampler, predict),
    )
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
