"""Scheduler checks: whether a diffusers scheduler can be a sampler here and fits a model."""

from __future__ import annotations

import copy
import inspect
from typing import Any, Final

import torch

_LEVEL_TOLERANCE: Final = 1e-3
"""Other noise levels than the model's own are 0.03 or more away, the same ones 1e-6."""


def extra_inputs(scheduler: Any) -> list[str]:
    """Return what a step of the scheduler cannot do without, beside what every one gets."""
    given = {"model_output", "timestep", "sample"}
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [
        name
        for name, parameter in inspect.signature(scheduler.step).parameters.items()
        if parameter.kind is named and parameter.default is parameter.empty and name not in given
    ]


def scales(scheduler: Any) -> bool:
    """Return whether noise or the model's input is more than handed through, at the first step."""
    scheduler, one = copy.deepcopy(scheduler), torch.ones(1)
    try:
        seen = scheduler.scale_model_input(one, scheduler.timesteps[0])
        noise = float(scheduler.init_noise_sigma)
    except AttributeError:  # flow-matching schedulers scale nothing
        return False
    return noise != 1.0 or not torch.equal(seen, one)


def same_levels(scheduler: Any, shipped: Any) -> bool:
    """Return whether two schedulers share their noise levels, as shares of a clip's variance."""
    try:
        levels = [part.alphas_cumprod.double() for part in (scheduler, shipped)]
    except AttributeError:  # it knows levels of another kind only
        return False
    return bool((levels[0] - levels[1]).abs().max() <= _LEVEL_TOLERANCE)
