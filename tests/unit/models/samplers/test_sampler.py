"""The sampler: copies per block, refusals, and other solvers on a flow model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from longtake.errors import ConfigurationError, ModelError
from longtake.models import (
    DiffusersSampler,
    ModelFolder,
    Sampler,
    SamplerSettings,
    load_sampler,
    load_scheduler,
)
from longtake.models.samplers.base import BlockSampler
from longtake.models.samplers.scheduler_checks import flow_error
from longtake.testing.tiny.base import tiny_scheduler
from longtake.testing.tiny.cogvideox import tiny_cogvideox_scheduler

SHAPE = (1, 2, 3, 4, 4)
SAMPLERS = [
    "UniPCMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
]

# numpy's complaint about diffusers' DPM-Solver++, harmless.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def folder_with(tmp_path: Path, scheduler: Any, pipeline: str = "WanPipeline") -> ModelFolder:
    scheduler.save_pretrained(tmp_path / "scheduler")
    index = {"_class_name": pipeline, "scheduler": ["diffusers", type(scheduler).__name__]}
    return ModelFolder(tmp_path, index)


def folder_of_v(tmp_path: Path, sampler: str, shift: float) -> ModelFolder:
    """Return a CogVideoX folder: its shift is 3 in the 2B model and 1, none, in 5B."""
    scheduler = tiny_cogvideox_scheduler(sampler, snr_shift_scale=shift)
    return folder_with(tmp_path, scheduler, "CogVideoXPipeline")


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def denoise(block: BlockSampler, latents: Tensor, predictions: list[Tensor]) -> Tensor:
    for prediction in predictions:
        latents = block.step(prediction, latents)
    return latents


@pytest.mark.parametrize("name", SAMPLERS)
def test_blocks_at_different_steps_do_not_disturb_each_other(name: str) -> None:
    """Two blocks stepped in turns, one step apart, are as if each had a scheduler to itself."""
    steps = 5
    sampler = DiffusersSampler(tiny_scheduler(name), steps)
    predictions = [[draw(10 * b + s) for s in range(steps)] for b in (1, 2)]
    alone = []
    for block in range(2):
        scheduler, latents = tiny_scheduler(name), draw(block)
        scheduler.set_timesteps(steps)
        for timestep, prediction in zip(scheduler.timesteps, predictions[block], strict=True):
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        alone.append(latents)
    states, latents_of = [sampler.start(), sampler.start()], [draw(0), draw(1)]
    for turn in range(steps + 1):
        for block, step in ((1, turn - 1), (0, turn)):
            if 0 <= step < steps:
                latents_of[block] = states[block].step(predictions[block][step], latents_of[block])
    assert torch.equal(latents_of[0], alone[0])
    assert torch.equal(latents_of[1], alone[1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_latents_and_prediction_are_not_changed(name: str) -> None:
    block = DiffusersSampler(tiny_scheduler(name), 3).start()
    latents, prediction = draw(0), draw(1)
    for _ in range(3):
        before = latents.clone()
        after = block.step(prediction, latents)
        assert torch.equal(latents, before)
        assert torch.equal(prediction, draw(1))
        latents = after


def test_the_given_scheduler_is_only_copied() -> None:
    scheduler = tiny_scheduler()
    before = scheduler.timesteps.clone()
    denoise(DiffusersSampler(scheduler, 3).start(), draw(0), [draw(1)] * 3)
    assert torch.equal(scheduler.timesteps, before)
    assert scheduler.step_index is None


def test_predictions_in_bf16_are_stepped_in_fp32() -> None:
    block = DiffusersSampler(tiny_scheduler(), 2).start()
    after = block.step(draw(1).bfloat16(), draw(0))
    assert after.dtype == torch.float32
    exact = DiffusersSampler(tiny_scheduler(), 2).start().step(draw(1).bfloat16().float(), draw(0))
    assert torch.equal(after, exact)


@pytest.mark.parametrize("steps", [0, -3])
def test_too_few_steps_are_refused(steps: int) -> None:
    with pytest.raises(ConfigurationError, match=f"model.steps is {steps}"):
        DiffusersSampler(tiny_scheduler(), steps)


def test_more_than_one_forward_per_step_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"FlowMatchHeun.* 7 times for 4 steps"):
        DiffusersSampler(diffusers.FlowMatchHeunDiscreteScheduler(), 4)


def drawn(version: int) -> Tensor:
    """Return a step's noise as a scheduler draws it from ``generator_of``."""
    return torch.randn(SHAPE, generator=generator_of(version))


def generator_of(version: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + version)


@pytest.mark.parametrize(
    ("name", "config", "eta"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}, None),
        ("FlowMatchLCMScheduler", {}, None),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, None),
        ("LCMScheduler", {}, None),
        ("DDPMScheduler", {}, None),
        ("DDIMScheduler", {}, 1.0),
        ("SASolverScheduler", {}, None),
        ("TCDScheduler", {}, None),
    ],
)
def test_stochastic_samplers_step_as_diffusers_does_with_the_same_noise(
    name: str, config: dict[str, Any], eta: float | None
) -> None:
    """Written out with the scheduler's own generator: the same bits, nothing hidden."""
    steps, scheduler = 5, getattr(diffusers, name)(**config)
    before = torch.get_rng_state()
    sampler = DiffusersSampler(scheduler, steps, eta=eta)
    assert sampler.stochastic
    found, state = draw(0), sampler.start()
    for step in range(steps):
        found = state.step(draw(1 + step), found, drawn(step))
    assert torch.equal(before, torch.get_rng_state())
    expected, options = draw(0), {} if eta is None else {"eta": eta}
    scheduler.set_timesteps(steps)
    for step, timestep in enumerate(scheduler.timesteps):
        own = generator_of(step)
        (expected, *_) = scheduler.step(
            draw(1 + step), timestep, expected, return_dict=False, generator=own, **options
        )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler"])
def test_latents_of_scaling_samplers_are_what_the_model_sees(name: str) -> None:
    steps, scheduler = 5, getattr(diffusers, name)()
    sampler = DiffusersSampler(scheduler, steps)
    assert sampler.stochastic == ("Ancestral" in name)
    found, state = sampler.first(draw(0)), sampler.start()
    scheduler.set_timesteps(steps)
    expected = draw(0) * scheduler.init_noise_sigma
    for step, timestep in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(expected, timestep)
        torch.testing.assert_close(found, seen, rtol=1e-5, atol=1e-5)
        noise = drawn(step) if sampler.stochastic else None
        found = state.step(draw(1 + step), found, noise)
        (expected, *_) = scheduler.step(
            draw(1 + step), timestep, expected, return_dict=False, generator=generator_of(step)
        )
    # Scaled and scaled back: an ulp of the largest level, 15, per step.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_an_eta_that_a_scheduler_lacks_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="UniPCMultistepScheduler has no eta"):
        DiffusersSampler(tiny_scheduler(), 4, eta=1.0)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("shipped", SAMPLERS[:2])
def test_another_sampler_keeps_a_flow_model_a_flow_model(
    tmp_path: Path, shipped: str, name: str
) -> None:
    """On a straight flow (always predict noise minus clip) every flow sampler ends at the clip."""
    folder = folder_with(tmp_path, tiny_scheduler(shipped))
    sampler = DiffusersSampler(load_scheduler(folder, name, None), 6)
    noise, clip = draw(0), draw(1)
    found = denoise(sampler.start(), noise, [noise - clip] * 6)
    # DPM-Solver++ takes logarithms of sigmas near 1.
    torch.testing.assert_close(found, clip, rtol=0, atol=2e-3)
    assert sampler.timesteps[0] > sampler.timesteps[-1] > 0


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_shift_of_the_model_holds_unless_another_is_given(tmp_path: Path, name: str) -> None:
    folder = folder_with(tmp_path, tiny_scheduler())
    models_own = DiffusersSampler(load_scheduler(folder, name, None), 6)
    same = DiffusersSampler(load_scheduler(folder, name, 3.0), 6)
    other = DiffusersSampler(load_scheduler(folder, name, 8.0), 6)
    assert models_own.timesteps == same.timesteps
    # A larger shift spends more steps on the noisy part.
    assert all(a < b for a, b in zip(same.timesteps[1:], other.timesteps[1:], strict=True))


def test_a_shift_that_the_sampler_does_not_have_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, tiny_scheduler())
    with pytest.raises(ConfigurationError, match=r"flow_shift is 5\.0, but PNDMScheduler has no"):
        load_scheduler(folder, "PNDMScheduler", 5.0)


def test_an_unknown_sampler_is_refused_by_who_named_it(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, tiny_scheduler())
    for name in ("EulerScheduler", "WanPipeline", "torch"):
        with pytest.raises(ConfigurationError, match=f"{name} is no scheduler.*UniPC"):
            load_scheduler(folder, name, None)
    folder.index["scheduler"] = ["diffusers", "Nonsense"]
    with pytest.raises(ModelError, match="Nonsense is no scheduler"):
        load_scheduler(folder, None, None)


# numpy's complaint about diffusers' DEIS, harmless.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DEISMultistepScheduler", "does not solve flow models"),
        ("IPNDMScheduler", "does not solve flow models"),
        ("EulerDiscreteScheduler", "cannot take 6 steps on this model"),
        ("LCMScheduler", "cannot take|does not solve flow models"),
        ("EulerAncestralDiscreteScheduler", "cannot take|does not solve flow models"),
    ],
)
def test_samplers_for_other_models_are_refused(tmp_path: Path, name: str, words: str) -> None:
    folder = folder_with(tmp_path, tiny_scheduler())
    with pytest.raises(ConfigurationError, match=words) as refused:
        load_sampler(folder, name, None, 6)
    assert name in str(refused.value)


@pytest.mark.parametrize("name", [None, *SAMPLERS])
@pytest.mark.parametrize("steps", [1, 2, 16, 50])
def test_samplers_for_flows_are_taken(tmp_path: Path, name: str | None, steps: int) -> None:
    folder = folder_with(tmp_path, tiny_scheduler())
    sampler = load_sampler(folder, name, None, steps)
    assert flow_error(sampler, SamplerSettings(steps=steps)) < 1e-3


def test_ddim_for_v_prediction_steps_as_diffusers_does(tmp_path: Path) -> None:
    folder, steps = folder_of_v(tmp_path, "CogVideoXDDIMScheduler", 3.0), 7
    sampler, scheduler = load_sampler(folder, None, None, steps), tiny_cogvideox_scheduler()
    scheduler.set_timesteps(steps)
    expected, predictions = draw(0), [draw(1 + step) for step in range(steps)]
    for timestep, prediction in zip(scheduler.timesteps, predictions, strict=True):
        expected = scheduler.step(prediction, timestep, expected, return_dict=False)[0]
    assert torch.equal(denoise(sampler.start(), draw(0), predictions), expected)
    assert sampler.timesteps == tuple(map(float, scheduler.timesteps))


@pytest.mark.parametrize("name", [None, "CogVideoXDDIMScheduler"])
def test_a_sampler_that_keeps_more_than_latents_is_refused(
    tmp_path: Path, name: str | None
) -> None:
    """CogVideoX's DPM scheduler draws noise and wants its last guess; DDIM takes its place."""
    folder = folder_of_v(tmp_path, "CogVideoXDPMScheduler", 1.0)
    if name is not None:
        assert load_sampler(folder, name, None, 5).timesteps[0] == 999
        return
    words = r"CogVideoXDPMScheduler wants more .*\(old_pred_original_sample, timestep_back\)"
    with pytest.raises(ConfigurationError, match=f"{words}.*choose CogVideoXDDIMScheduler"):
        load_sampler(folder, None, None, 5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DPMSolverMultistepScheduler", "other noise levels than the CogVideoXDDIMScheduler"),
        ("FlowMatchEulerDiscreteScheduler", "other noise levels than the CogVideoXDDIMScheduler"),
        ("EulerDiscreteScheduler", "other noise levels than the CogVideoXDDIMScheduler"),
        ("DDPMScheduler", "other noise levels than the CogVideoXDDIMScheduler"),
        ("PNDMScheduler", "runs the model 21 times for 12 steps"),
        ("Nonsense", "is no scheduler"),
    ],
)
def test_samplers_that_do_not_fit_v_prediction_are_refused(
    tmp_path: Path, name: str, words: str
) -> None:
    folder = folder_of_v(tmp_path, "CogVideoXDDIMScheduler", 3.0)
    with pytest.raises(ConfigurationError, match=f"{name} (has )?{words}") as refused:
        load_sampler(folder, name, None, 12)
    assert "UniPC" not in str(refused.value)
    assert "CogVideoXDDIMScheduler" in str(refused.value)


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_other_solvers_of_the_models_own_noise_levels_are_taken(tmp_path: Path, name: str) -> None:
    """For clips of independent Gaussian numbers it is known what is best to predict."""
    folder, steps = folder_of_v(tmp_path, "CogVideoXDDIMScheduler", 1.0), 50
    levels = load_scheduler(folder, None, None).alphas_cumprod.float()
    mean, deviation, noise = 0.5, 0.3, draw(0)

    def error(sampler: Sampler) -> float:
        state, latents = sampler.start(), noise
        for timestep in sampler.timesteps:
            signal = levels[int(timestep)].sqrt()
            blur = (1 - signal**2).sqrt()
            share = signal * deviation**2 / (signal**2 * deviation**2 + blur**2)
            clip = mean + share * (latents - signal * mean)
            latents = state.step((signal * latents - clip) / blur, latents)
        return float((latents - (mean + deviation * noise)).abs().max())

    found = error(load_sampler(folder, name, None, steps))
    assert found < error(load_sampler(folder, None, None, steps)) < 0.2
