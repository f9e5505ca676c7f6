"""Scheduler checks: whether a diffusers scheduler can be a sampler here and fits a model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, Final

import torch

from longtake.errors import ConfigurationError
from longtake.models.samplers.base import Sampler, SamplerSettings
from longtake.models.samplers.given_noise import GivenNoise

_LEVEL_TOLERANCE: Final = 1e-3
"""Other noise levels than the model's own are 0.03 or more away, the same ones 1e-6."""
_GOOD: Final = (
    "UniPCMultistepScheduler, FlowMatchEulerDiscreteScheduler or DPMSolverMultistepScheduler"
)
_GOOD_FOR_V: Final = "CogVideoXDDIMScheduler"
"""For models of v-prediction, such as CogVideoX."""


def good_samplers(config: Mapping[str, Any]) -> str:
    """Return samplers to choose, for the end of a refusal.

    Args:
        config: Of a scheduler.
    """
    return _GOOD_FOR_V if config.get("prediction_type") == "v_prediction" else _GOOD


def extra_inputs(scheduler: Any) -> list[str]:
    """Return what a step of the scheduler cannot do without, beside what every one gets."""
    given = {"model_output", "timestep", "sample"}
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [
        name
        for name, parameter in inspect.signature(scheduler.step).parameters.items()
        if parameter.kind is named and parameter.default is parameter.empty and name not in given
    ]


def scales(scheduler: Any) -> tuple[float, ...] | None:
    """Return by what a scheduler multiplies latents before the model sees them, step by step.

    Args:
        scheduler: With the timesteps of a run; not changed.

    Returns:
        ``None`` where latents and starting noise are handed through.
    """
    one = torch.ones(1, dtype=torch.float64)
    found = []
    try:
        for step, timestep in enumerate(scheduler.timesteps):
            here = copy.deepcopy(scheduler)
            begin_at(here, step)
            found.append(float(here.scale_model_input(one, timestep)))
            if found == [1.0] and float(here.init_noise_sigma) == 1.0:
                return None
    except AttributeError:  # flow-matching schedulers scale nothing
        return None
    return tuple(found)


def begin_at(scheduler: Any, step: int) -> None:
    """Tell a scheduler that counts its steps at which one it begins."""
    try:
        scheduler.set_begin_index(step)
    except AttributeError:  # DDIM, DDPM and PNDM go by the timestep alone
        return


def draws_noise(sampler: Sampler, name: str, good: str) -> bool:
    """Return whether steps draw noise, by taking all of them.

    Args:
        sampler: Of a run.
        name: Of its scheduler.
        good: What to choose instead.

    Raises:
        ConfigurationError: A step draws more than once, or in a way that cannot be given.
    """
    ones, most, ends = torch.ones(1, 1, 1, 1, 1), 0, []
    for seed in (0, 1):
        block, latents = sampler.start(), ones
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for _ in sampler.timesteps:
                with GivenNoise(ones) as given:
                    latents = block.step(ones, latents)
                most = max(most, given.draws)
        ends.append(latents.nan_to_num())
    if most > 1 or not torch.equal(*ends):
        raise ConfigurationError(
            f"the sampler {name} draws more than one tensor of noise in a step, or draws it in a "
            f"way that longtake cannot hand in; choose {good}."
        )
    return most == 1


def flow_error(sampler: Sampler, settings: SamplerSettings) -> float:
    """Return how far a sampler ends from the clip on a straight flow, as a share of the noise.

    Args:
        sampler: Of a run.
        settings: Of the same run.
    """
    # With inverted levels (Mochi) the model says which way the clip is, not the noise.
    inverted = bool(settings.config.get("invert_sigmas"))
    ones = torch.ones(1, 1, 1, 1, 1)
    block, latents = sampler.start(), sampler.first(ones)
    for timestep in sampler.timesteps:
        if sampler.stochastic:  # its noise changes: what it ends at is the clip, 0
            level = timestep / settings.train_timesteps
            velocity, noise = latents / (1 - level if inverted else level), ones
        else:
            velocity, noise = ones, None
        latents = block.step(-velocity if inverted else velocity, latents, noise)
    return float(latents.nan_to_num().abs().max())


def same_levels(scheduler: Any, shipped: Any) -> bool:
    """Return whether two schedulers share their noise levels, as shares of a clip's variance."""
    try:
        levels = [part.alphas_cumprod.double() for part in (scheduler, shipped)]
    except AttributeError:  # it knows levels of another kind only
        return False
    return bool((levels[0] - levels[1]).abs().max() <= _LEVEL_TOLERANCE)
