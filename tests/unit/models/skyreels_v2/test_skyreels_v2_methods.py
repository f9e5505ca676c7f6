"""SkyReels-V2's long videos: diffusers' own pipeline, asynchronous and clip after clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from diffusers import SkyReelsV2DiffusionForcingPipeline, UniPCMultistepScheduler
from torch import Tensor
from typing_extensions import override

from longtake.caches import FeatureCache, NoCache, RollingKV
from longtake.errors import ConfigurationError
from longtake.models import ModelFolder, Placement, load_sampler
from longtake.models.skyreels_v2 import SkyReelsV2Family
from longtake.noise import StepNoise
from longtake.schedulers import BlockScheduler, DiffusionForcing, Extend
from longtake.task import Video
from longtake.testing.runs import serial_video
from longtake.testing.tiny.base import CHANNELS, HEIGHT, LAYERS, WIDTH, TinyCase, tiny_prompts
from longtake.testing.tiny.skyreels_v2 import tiny_skyreels_denoising, tiny_skyreels_folder

PIPELINE = "diffusers.pipelines.skyreels_v2.pipeline_skyreels_v2_diffusion_forcing"
TOLERANCE = 1e-4  # max abs, relative: a mask instead of kept keys, other positions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return tiny_skyreels_folder(tmp_path_factory.mktemp("forcing"))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class Remembering(UniPCMultistepScheduler):  # type: ignore[misc]
    """UniPC that remembers the sample as it was: the pipeline writes into what it keeps."""

    def step(self, prediction: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        return super().step(prediction, timestep, sample.clone(), **options)


def pipeline(folder: ModelFolder) -> Any:
    found = SkyReelsV2DiffusionForcingPipeline.from_pretrained(folder.path)
    found.set_progress_bar_config(disable=True)
    found.scheduler = Remembering.from_config(found.scheduler.config)
    return found


def called(oracle: Any, frames: int, steps: int, **options: Any) -> Tensor:
    """Return the latents that diffusers' pipeline makes, without guidance."""
    latents: Tensor = oracle(
        prompt=None,
        prompt_embeds=tiny_prompts(1)["states"],
        height=HEIGHT * 8,
        width=WIDTH * 8,
        num_frames=1 + 4 * (frames - 1),
        num_inference_steps=steps,
        guidance_scale=1.0,
        output_type="latent",
        **options,
    ).frames
    return latents


def ours(
    folder: ModelFolder,
    scheduler: BlockScheduler,
    cache: FeatureCache,
    noise: Sequence[Tensor],
    steps: int,
    step_noise: StepNoise | None = None,
) -> Tensor:
    """Return the latents that the schedule makes with the folder's model and sampler."""
    frames = sum(one.shape[2] for one in noise)
    case = TinyCase(
        scheduler=scheduler, cache=cache, latent_frames=frames, steps=steps, scales=(1.0,)
    )
    family = SkyReelsV2Family()
    place = Placement(torch.device("cpu"), torch.float32)
    backbone = family.load_backbone(folder, family.spec(folder), range(LAYERS), place)
    text = backbone.condition_text(tiny_prompts(1))
    work = replace(
        tiny_skyreels_denoising(case),
        backbone=backbone,
        noise=iter(noise),
        sampler=load_sampler(folder, None, None, steps),
        text=lambda _frames, _branches: text,
        step_noise=step_noise,
    )
    return serial_video(work)


def normal(seed: int, frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, CHANNELS, frames, HEIGHT, WIDTH, generator=generator)


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() / expected.abs().max() <= TOLERANCE


def asynchronous(
    folder: ModelFolder, noise: Tensor, steps: int, block: int, lag: int, window: int
) -> Tensor:
    """Return the pipeline's asynchronous video, with a window of so many latent frames.

    The pipeline gives the function that moves windows the whole clip as one; it can move them.
    """
    oracle, frames = pipeline(folder), noise.shape[2]
    oracle.prepare_latents = lambda *_, **__: (noise.clone(), frames, None, 0)
    matrix = oracle.generate_timestep_matrix
    oracle.generate_timestep_matrix = lambda count, template, _base, *rest: matrix(
        count, template, window, *rest
    )
    return called(oracle, frames, steps, ar_step=lag, causal_block_size=block)


@pytest.mark.parametrize(
    ("frames", "block", "lag", "window", "steps"),
    [
        (6, 2, 2, 6, 4),  # a window that does not move
        (6, 2, 5, 6, 4),  # no two blocks in flight
        (8, 2, 1, 8, 6),  # blocks of one window may lag less than a moving one lets them
        (9, 3, 3, 9, 5),
        (12, 2, 2, 6, 4),  # one that moves
        (12, 3, 3, 6, 5),
        (10, 2, 2, 4, 3),
    ],
)
def test_asynchronous_diffusion_forcing_is_the_pipelines(
    folder: ModelFolder, frames: int, block: int, lag: int, window: int, steps: int
) -> None:
    """Blocks that read what older ones leave are the pipeline's masked window."""
    noise = normal(5, frames)
    expected = asynchronous(folder, noise, steps, block, lag, window)
    scheduler = DiffusionForcing(block, lag, window)
    found = ours(folder, scheduler, RollingKV(window), torch.split(noise, block, dim=2), steps)
    assert_near(found, expected)


def test_a_moving_window_matters(folder: ModelFolder) -> None:
    """And so does the lag: the pipeline is not followed by accident."""
    noise = normal(5, 12)
    one = asynchronous(folder, noise, 4, 2, 2, 6)
    for window, lag in ((12, 2), (6, 3)):
        other = asynchronous(folder, noise, 4, 2, lag, window)
        assert (one - other).abs().max() / one.abs().max() > 100 * TOLERANCE


def test_a_lag_too_short_for_a_moving_window_is_refused_as_the_pipeline_does(
    folder: ModelFolder,
) -> None:
    with pytest.raises(ValueError, match="`ar_step` should be at least 3"):
        asynchronous(folder, normal(5, 8), 6, 2, 2, 4)
    with pytest.raises(ConfigurationError, match="needs a lag of at least 3"):
        next(DiffusionForcing(2, 2, 4).tasks(Video(8, 6)))
    assert next(DiffusionForcing(2, 2, 4).tasks(Video(4, 6))).index == 0


class Mixed(StepNoise):
    """The noise that known frames are mixed with, numbered by task."""

    def __init__(self, overlap: int) -> None:
        self.overlap = overlap

    @override
    def draw(self, block: int, version: int, frames: int) -> Tensor:
        raise NotImplementedError

    @override
    def mixed(self, index: int, first: int, frames: int) -> Tensor:
        assert frames == self.overlap
        return normal(1000 + index, frames)


@pytest.mark.parametrize("condition", [0, 20])
@pytest.mark.parametrize(
    ("frames", "length", "overlap"),
    [(9, 5, 2), (10, 5, 1), (7, 4, 2), (6, 5, 2)],
)
def test_clips_that_go_on_are_the_pipelines_long_video(
    folder: ModelFolder, frames: int, length: int, overlap: int, condition: int
) -> None:
    """With the same draws: every clip's own, and that of the known frames at every step."""
    steps = 3
    scheduler = Extend(length, overlap, noised=condition / 1000)
    clips = list(scheduler.blocks(frames))
    generator = torch.Generator().manual_seed(7)
    # The pipeline draws noise for the known frames too, and writes them over it.
    shapes = [len(clips[0]), *(len(clip) + overlap for clip in clips[1:])]
    drawn = [torch.randn(1, CHANNELS, size, HEIGHT, WIDTH, generator=generator) for size in shapes]
    noise = [drawn[0], *(one[:, :, overlap:] for one in drawn[1:])]
    # The first clip sees nothing.
    mixed = iter([normal(1000 + index, overlap) for index in range(steps, steps * len(clips))])
    with patch(f"{PIPELINE}.torch.randn_like", lambda _: next(mixed)):
        expected = called(
            pipeline(folder),
            frames,
            steps,
            generator=torch.Generator().manual_seed(7),
            ar_step=0,
            causal_block_size=1,
            overlap_history=1 + 4 * (overlap - 1),
            base_num_frames=1 + 4 * (length - 1),
            addnoise_condition=condition,
        )
    assert (next(mixed, None) is None) == (condition > 0), "draws are left"
    found = ours(folder, scheduler, NoCache(), noise, steps, Mixed(overlap))
    for clip in clips:
        span = slice(clip.start, clip.stop)
        assert_near(found[:, :, span], expected[:, :, span])
    other = Extend(length, overlap, noised=0.0 if condition else 0.02)
    different = ours(folder, other, NoCache(), noise, steps, Mixed(overlap)) - expected
    assert different[:, :, clips[-1].start :].abs().max() > 10 * TOLERANCE, "noise does nothing"
