"""Lists of timesteps as few-step models publish them: what they mean, which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.framework.engine.generation_config import GenerationConfig
from longtake.models import DiffusersScheduler, ModelFolder, Sampler, SamplerChoice, load_sampler
from longtake.testing.tiny.base import tiny_scheduler
from longtake.testing.tiny.cogvideox import tiny_cogvideox_scheduler

PUBLISHED: list[float] = [1000, 750, 500, 250]
LEVELS = [1000, 937.5, 1000 * 5 / 6, 625]
"""Told by the published code of few-step Wan for that list, at a shift of 5."""
EULER = "FlowMatchEulerDiscreteScheduler"
UNIPC = "UniPCMultistepScheduler"
STOCHASTIC = DiffusersScheduler(scheduler=EULER, options={"stochastic_sampling": True})


def folder_of(tmp_path: Path, scheduler: Any, pipeline: str = "WanPipeline") -> ModelFolder:
    scheduler.save_pretrained(tmp_path / "scheduler")
    index = {"_class_name": pipeline, "scheduler": ["diffusers", type(scheduler).__name__]}
    return ModelFolder(tmp_path, index)


@pytest.fixture
def wan(tmp_path: Path) -> ModelFolder:
    return folder_of(tmp_path, tiny_scheduler(UNIPC))


def sampler_of(
    folder: ModelFolder,
    timesteps: list[float],
    sampler: SamplerChoice = EULER,
    shift: float | None = 5.0,
) -> Sampler:
    return load_sampler(folder, sampler, shift, len(timesteps), timesteps=timesteps)


@pytest.mark.parametrize("sampler", [EULER, STOCHASTIC])
def test_the_shift_is_applied_once(wan: ModelFolder, sampler: SamplerChoice) -> None:
    told = sampler_of(wan, PUBLISHED, sampler).timesteps
    assert told == pytest.approx(LEVELS, abs=1e-4)


def test_a_shift_of_1_takes_a_list_as_it_is(wan: ModelFolder) -> None:
    told = sampler_of(wan, [1000, 757, 522], shift=1.0).timesteps
    assert told == pytest.approx([1000, 757, 522], abs=1e-4)


def test_unipc_tells_whole_numbers_at_the_levels_of_the_list(wan: ModelFolder) -> None:
    sampler: Any = sampler_of(wan, PUBLISHED, UNIPC)
    assert sampler.timesteps == (999, 937, 833, 625)
    levels = [*(level / 1000 for level in LEVELS), 0.0]
    assert sampler.scheduler.sigmas.tolist() == pytest.approx(levels, abs=2e-6)


def test_the_model_s_own_shift_is_applied_where_none_is_given(wan: ModelFolder) -> None:
    shift = tiny_scheduler(UNIPC).config["flow_shift"]
    expected = [1000 * shift * u / (1 + (shift - 1) * u) for u in (1, 0.75, 0.5, 0.25)]
    assert sampler_of(wan, PUBLISHED, shift=None).timesteps == pytest.approx(expected, abs=1e-3)


def draw(seed: int) -> Tensor:
    return torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_a_stochastic_step_is_the_published_formula(wan: ModelFolder) -> None:
    """The clip as the model sees it, then fresh noise of the next level; at the end the clip."""
    sampler = sampler_of(wan, PUBLISHED, STOCHASTIC)
    assert sampler.stochastic
    levels = [*(level / 1000 for level in LEVELS), 0.0]
    block, latents = sampler.start(), draw(0)
    for step in range(4):
        velocity, noise = draw(10 + step), draw(20 + step)
        clip = latents - levels[step] * velocity
        expected = (1 - levels[step + 1]) * clip + levels[step + 1] * noise
        latents = block.step(velocity, latents, noise)
        torch.testing.assert_close(latents, expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(latents, clip, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("timesteps", "words"),
    [
        ([], "is empty"),
        ([250, 500], "500 follows 250: they go down"),
        ([1000, 750, 750], "750 follows 750: they go down"),
        ([1000, 500, 0], r"at 0 there is no noise left.*give \[1000, 500\]"),
        ([1000, -5], r"is \[1000, -5\], but all are above 0"),
        ([0], "but all are above 0"),
        ([float("nan"), 5], "but it is numbers"),
        ([float("inf"), 5], "but it is numbers"),
        ([1000, "500"], "but it is numbers"),
        ([True], "but it is numbers"),
    ],
)
def test_a_wrong_list_is_refused(timesteps: list[Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        GenerationConfig(pipeline="demo", timesteps=timesteps)


def test_a_list_beyond_pure_noise_is_refused(wan: ModelFolder) -> None:
    with pytest.raises(ConfigurationError, match="begins at 1500, but pure noise is 1000"):
        sampler_of(wan, [1500, 500])


def test_a_number_of_steps_beside_a_list_agrees_with_it() -> None:
    assert GenerationConfig(pipeline="demo", timesteps=[*PUBLISHED], steps=4).steps_or(50) == 4
    assert GenerationConfig(pipeline="demo", timesteps=[*PUBLISHED]).steps_or(50) == 4
    with pytest.raises(ConfigurationError, match=r"steps is 5, but model.timesteps has 4 \(\[1000"):
        GenerationConfig(pipeline="demo", timesteps=[*PUBLISHED], steps=5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_sampler_that_takes_no_list_is_refused(wan: ModelFolder) -> None:
    words = f"DPMSolverMultistepScheduler does not take model.timesteps.*choose {EULER}"
    with pytest.raises(ConfigurationError, match=words):
        sampler_of(wan, [1000, 900, 100], "DPMSolverMultistepScheduler")


def test_a_sampler_that_ends_above_the_list_is_refused(tmp_path: Path) -> None:
    """LTX-Video's scheduler stretches every list to a last level of its own."""
    euler = diffusers.FlowMatchEulerDiscreteScheduler(shift_terminal=0.1)
    with pytest.raises(ConfigurationError, match=r"does not take model.timesteps"):
        sampler_of(folder_of(tmp_path, euler), PUBLISHED, None)


def test_a_model_without_a_flow_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, tiny_cogvideox_scheduler(), "CogVideoXPipeline")
    with pytest.raises(ConfigurationError, match=r"no flow model.*give model.steps"):
        sampler_of(folder, PUBLISHED, None, shift=None)


def test_options_are_those_of_the_scheduler(wan: ModelFolder) -> None:
    def sampler(**options: Any) -> Any:
        choice = DiffusersScheduler(scheduler=UNIPC, options=options)
        return load_sampler(wan, choice, 3.0, 4)

    built = sampler(solver_order=3, solver_type="bh1", predict_x0=True)
    assert built.scheduler.config["solver_order"] == 3
    assert built.scheduler.config["solver_type"] == "bh1"
    for options, words in (
        ({"solver_ordr": 3}, "has no option solver_ordr; the nearest is solver_order"),
        ({"eta": 0.5}, "has no option eta"),
        ({"solver_order": 2.5}, "solver_order .* is 2.5, but it must be a whole number"),
        ({"solver_order": True}, "solver_order .* is True, but it must be a whole number"),
        ({"predict_x0": 1}, "predict_x0 .* is 1, but it must be true or false"),
        ({"flow_shift": 3.0}, "sets flow_shift to 3.0; give it as model.flow_shift"),
        ({"prediction_type": "epsilon"}, "that is how the model was trained"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            sampler(**options)


def test_eta_is_an_option_of_ddim(tmp_path: Path) -> None:
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction")
    folder = folder_of(tmp_path, scheduler, "CogVideoXPipeline")
    assert not load_sampler(folder, None, None, 4).stochastic
    choice = DiffusersScheduler(options={"eta": 1})
    assert load_sampler(folder, choice, None, 4).stochastic
    assert choice.named("DDIMScheduler") == "DDIMScheduler(eta=1)"
    with pytest.raises(ConfigurationError, match=r"eta .* is 'much', but it must be a number"):
        load_sampler(folder, DiffusersScheduler(options={"eta": "much"}), None, 4)
