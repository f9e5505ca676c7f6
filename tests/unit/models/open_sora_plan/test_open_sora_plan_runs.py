"""Open-Sora-Plan's runs: the published sampling, the queue, and windows as the model sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_open_sora_plan_folder(tmp_path_factory.mktemp("plan"))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_full_sequence_is_the_published_sampling(folder: ModelFolder, scale: float) -> None:
    """With the same noise in every step: theirs comes from a device's global generator."""
    noise = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    family = OpenSoraPlanFamily()
    states = family.encode_text(folder, PROMPTS, PLACE)
    case = TinyCase(scheduler=FullSequence(), cache=NoCache(), scales=(scale,))
    work = replace(
        tiny_open_sora_plan_denoising(case, prompts=states),
        backbone=family.load_backbone(folder, family.spec(folder), range(LAYERS), PLACE),
        tasks=FullSequence().tasks(Video(FRAMES, STEPS)),
        noise=iter([noise]),
        sampler=load_sampler(folder, None, None, STEPS),
    )
    assert work.sampler.stochastic
    assert work.step_noise is not None
    fresh = [work.step_noise.draw(0, step, FRAMES) for step in range(STEPS)]
    model = tiny_open_sora_plan_transformer()

    def predict(latents: Tensor, timestep: float) -> Tensor:
        seen = latents.float().expand(2, -1, -1, -1, -1)
        positive, negative = published_forward(model, seen, timestep, states).double()
        guided: Tensor = negative + scale * (positive - negative)
        return guided[None]

    expected = published_sampling(noise, fresh, predict)
    found = serial_video(work)
    assert (found - expected).abs().max() / expected.abs().max() <= 1e-5
    assert (found - noise).abs().max() > 0.1, "nothing has been denoised"


def published_sampling(
    noise: Tensor, fresh: Sequence[Tensor], predict: Callable[[Tensor, float], Tensor]
) -> Tensor:
    """Sample at the published noise levels with all of a step's noise anew (DDIM, eta 1).

    The published Euler ancestral sampler in the variable that the model sees, in fp64: its own
    latents begin at 4096 times the noise, where fp32 has an error of 1e-4.
    """
    scheduler = euler_ancestral()
    scheduler.set_timesteps(len(fresh))
    kept = [float(1 / (1 + sigma**2)) for sigma in scheduler.sigmas.double()]
    x = noise.double()
    levels = zip(scheduler.timesteps, pairwise(kept), fresh, strict=True)
    for timestep, (a, n), w in levels:
        v = predict(x, float(timestep))
        clip = a**0.5 * x - (1 - a) ** 0.5 * v
        old = a**0.5 * v + (1 - a) ** 0.5 * x
        spread = (1 - n) / (1 - a) * (1 - a / n)
        x = n**0.5 * clip + max(0.0, 1 - n - spread) ** 0.5 * old + spread**0.5 * w.double()
    return x.float()


@pytest.mark.parametrize("steps", [7, 30, 50, 100])
def test_the_sampler_is_that_of_any_number_of_steps(folder: ModelFolder, steps: int) -> None:
    """Of numbers, too, that do not divide the training's 1,000."""
    generator = torch.Generator().manual_seed(0)
    noise, *fresh = torch.randn(steps + 1, 1, 4, 2, 3, 3, generator=generator)

    def predict(latents: Tensor, timestep: float) -> Tensor:
        return (latents.double() * (1 + timestep / 1000)).sin()

    sampler = load_sampler(folder, None, None, steps)
    block, latents = sampler.start(), sampler.first(noise)
    for timestep, w in zip(sampler.timesteps, fresh, strict=True):
        latents = block.step(predict(latents, timestep), latents, w)
    expected = published_sampling(noise, fresh, predict)
    assert (latents - expected).abs().max() <= 1e-4 * expected.abs().max()


def euler_ancestral() -> Any:
    """Return the published scheduler."""
    return EulerAncestralDiscreteScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )


def test_the_folder_has_the_published_sampler(folder: ModelFolder) -> None:
    assert folder.class_name("scheduler") == "EulerAncestralDiscreteScheduler"
    published = dict(euler_ancestral().config)
    shipped = folder.config("scheduler")
    assert {key: shipped[key] for key in published if not key.startswith("_")} == {
        key: value for key, value in published.items() if not key.startswith("_")
    }
    given = load_sampler(folder, "DPMSolverMultistepScheduler", None, STEPS)
    assert not given.stochastic
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
