"""Timesteps of few-step models: lists as they are published, and the noise levels of a run.

A distilled model is trained at a few noise levels and published with a list of timesteps such as
1000, 750, 500, 250, of which each is "warped" by the shift of its training: with a shift ``k`` the
timestep ``t`` of 1000 stands for the noise level ``s = k u / (1 + (k - 1) u)``, ``u = t / 1000``,
and the model is told ``1000 s``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from longtake.errors import ConfigurationError
from longtake.models.samplers.base import Sampler, SamplerSettings

_EXAMPLE: Final = "such as [1000, 750, 500, 250]"
_ROUNDING: Final = 1.0
"""Some schedulers (UniPC) tell whole timesteps, cut off."""


def check_timesteps(timesteps: Sequence[float], steps: int | None) -> None:
    """Refuse a list that does not run down from noise, or that is not as long as ``steps``.

    Args:
        timesteps: Before the shift, first step first.
        steps: As the user gives them; ``None``: not.

    Raises:
        ConfigurationError: Names the numbers.
    """
    shown = _shown(timesteps)
    if not timesteps:
        raise ConfigurationError(f"model.timesteps is empty, but a run has a step; {_EXAMPLE}.")
    wrong = [t for t in timesteps if isinstance(t, bool) or not isinstance(t, int | float)]
    if wrong or not all(map(math.isfinite, timesteps)):
        raise ConfigurationError(f"model.timesteps is {shown}, but it is numbers, {_EXAMPLE}.")
    for before, after in pairwise(timesteps):
        if not after < before:
            raise ConfigurationError(
                f"model.timesteps is {shown}, but {after:g} follows {before:g}: they go down, from "
                f"noise to the clip, {_EXAMPLE}."
            )
    if timesteps[-1] == 0 and len(timesteps) > 1:
        raise ConfigurationError(
            f"model.timesteps is {shown}, but at 0 there is no noise left to take away: the last "
            f"step ends there by itself; give {_shown(timesteps[:-1])}."
        )
    if timesteps[-1] <= 0:
        raise ConfigurationError(f"model.timesteps is {shown}, but all are above 0, {_EXAMPLE}.")
    if steps is not None and steps != len(timesteps):
        raise ConfigurationError(
            f"model.steps is {steps}, but model.timesteps has {len(timesteps)} ({shown}), one for "
            f"each step; leave model.steps out, or make it {len(timesteps)}."
        )


def levels_before_shift(
    timesteps: Sequence[float], train_timesteps: int, flow: bool
) -> tuple[float, ...]:
    """Return the noise levels that a list stands for, before the shift: from 1, noise, down.

    Args:
        timesteps: That ``check_timesteps`` has let pass.
        train_timesteps: What the model is told for pure noise.
        flow: Whether the model predicts a flow: others have levels of another kind.

    Raises:
        ConfigurationError: The list is not for this model.
    """
    if not flow:
        raise ConfigurationError(
            f"model.timesteps is {_shown(timesteps)}, but this model is no flow model, and its "
            f"scheduler has levels of another kind; give model.steps."
        )
    if timesteps[0] > train_timesteps:
        raise ConfigurationError(
            f"model.timesteps begins at {timesteps[0]:g}, but pure noise is {train_timesteps} for "
            f"this model; give numbers from {train_timesteps} down to above 0."
        )
    return tuple(timestep / train_timesteps for timestep in timesteps)


def check_taken(sampler: Sampler, name: str, settings: SamplerSettings, good: str) -> None:
    """Refuse a sampler that does not step at the noise levels of the user's list.

    Args:
        sampler: Of a run.
        name: Of it.
        settings: Of the same run, with the list as its ``sigmas``.
        good: What to choose instead.

    Raises:
        ConfigurationError: Names the levels that it would have.
    """
    shift, total = settings.shift or 1.0, settings.train_timesteps
    wanted = [total * shifted(sigma, shift) for sigma in settings.sigmas or ()]
    told = sampler.timesteps
    if all(abs(a - b) <= _ROUNDING for a, b in zip(told, wanted, strict=True)):
        return
    raise ConfigurationError(
        f"the sampler {name} does not take model.timesteps: it would step at {_shown(told)} where "
        f"the list, shifted by {shift:g}, says {_shown(wanted)}; choose {good}, or give "
        f"model.steps."
    )


def shifted(sigma: float, shift: float) -> float:
    """Return a noise level, from 0 to 1, after the shift."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def _shown(timesteps: Sequence[Any]) -> str:
    return f"[{', '.join(f'{t:g}' if isinstance(t, int | float) else repr(t) for t in timesteps)}]"
