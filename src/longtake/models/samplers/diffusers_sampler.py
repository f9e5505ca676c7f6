"""diffusers' schedulers as samplers, one copy of the scheduler per block."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.models.samplers.base import BlockSampler, Sampler, SamplerState
from longtake.models.samplers.given_noise import GivenNoise
from longtake.models.samplers.scheduler_checks import (
    begin_at,
    draws_noise,
    extra_inputs,
    good_samplers,
    scales,
)
from longtake.models.samplers.scheduler_state import read_state, write_state


@final
class DiffusersSampler(Sampler):
    """Any diffusers scheduler that needs one forward per step.

    Schedulers that draw noise are given it. For those that scale the latents which the model
    sees (Euler's), latents are always as the model sees them.

    Args:
        scheduler: A diffusers scheduler; never stepped itself, only copied.
        steps: Denoising steps, one forward each.
        sigmas: Noise levels of the steps before the shift; ``None``: the scheduler's own.
        eta: Share of fresh noise in a step, for a scheduler of DDIM's kind.

    Raises:
        ConfigurationError: ``steps`` is below 1, or the scheduler needs more than one forward
            per step, wants anything else kept for it, or has no ``eta``.
    """

    def __init__(
        self,
        scheduler: Any,
        steps: int,
        sigmas: Sequence[float] | None = None,
        eta: float | None = None,
    ) -> None:
        if steps < 1:
            raise ConfigurationError(f"model.steps is {steps}, but at least 1 step is needed.")
        name, good = type(scheduler).__name__, good_samplers(scheduler.config)
        if extra := extra_inputs(scheduler):
            raise ConfigurationError(
                f"the sampler {name} wants more for a step than a prediction, a timestep and "
                f"latents ({', '.join(extra)}), and longtake keeps nothing else; choose {good}."
            )
        if eta is not None and "eta" not in inspect.signature(scheduler.step).parameters:
            raise ConfigurationError(
                f"the sampler {name} has no eta; leave it out, or choose DDIMScheduler."
            )
        scheduler = copy.deepcopy(scheduler)
        if sigmas is None or not _takes_sigmas(scheduler):
            scheduler.set_timesteps(steps, device="cpu")
        else:
            scheduler.set_timesteps(sigmas=np.array(sigmas), device="cpu")  # UniPC takes no list
        self._timesteps = tuple(float(timestep) for timestep in scheduler.timesteps)
        if len(self._timesteps) != steps:
            raise ConfigurationError(
                f"the sampler {name} runs the model {len(self._timesteps)} times for {steps} "
                f"steps; longtake needs one run per step: {good}."
            )
        begin_at(scheduler, 0)
        self.scheduler = scheduler
        """As it is before the first step; not to be stepped."""
        self._options = {} if eta is None else {"eta": eta}
        self._scales = scales(scheduler)
        if self._scales is not None:  # or each step logs that it has not been asked
            scheduler.scale_model_input(torch.ones(1), scheduler.timesteps[0])
        self._stochastic = draws_noise(self, name, good)

    @property
    @override
    def timesteps(self) -> tuple[float, ...]:
        return self._timesteps

    @property
    @override
    def stochastic(self) -> bool:
        return self._stochastic

    @override
    def start(self, state: SamplerState | None = None) -> DiffusersBlock:
        scheduler = copy.deepcopy(self.scheduler)
        done = 0 if state is None else write_state(scheduler, state)
        return DiffusersBlock(scheduler, self.scheduler, self._options, self._scales, done)

    @override
    def start_at(self, step: int) -> DiffusersBlock:
        scheduler = copy.deepcopy(self.scheduler)
        begin_at(scheduler, step)
        return DiffusersBlock(scheduler, self.scheduler, self._options, self._scales, step)

    @override
    def first(self, noise: Tensor) -> Tensor:
        if self._scales is None:
            return noise
        return noise * (float(self.scheduler.init_noise_sigma) * self._scales[0])


@final
class DiffusersBlock(BlockSampler):
    """One block's copy of a diffusers scheduler.

    Args:
        scheduler: This block's own.
        fresh: The same one before its first step.
        options: Further arguments of each step.
        scales: By what the latents of each step are multiplied before the model sees them;
            ``None``: they are not.
        steps_done: Steps behind it.
    """

    def __init__(
        self,
        scheduler: Any,
        fresh: Any,
        options: Mapping[str, float],
        scales: Sequence[float] | None,
        steps_done: int = 0,
    ) -> None:
        self._scheduler = scheduler
        self._fresh = fresh
        self._options = options
        self._scales = scales
        self._steps_done = steps_done

    @override
    def step(self, prediction: Tensor, latents: Tensor, noise: Tensor | None = None) -> Tensor:
        timestep = self._scheduler.timesteps[self._steps_done]
        if self._scales is not None:
            latents = latents / self._scales[self._steps_done]
        if noise is None:
            stepped = self._solve(prediction, timestep, latents)
        else:
            with GivenNoise(noise):
                stepped = self._solve(prediction, timestep, latents)
        self._steps_done += 1
        if self._scales is not None and self._steps_done < len(self._scales):
            stepped = stepped * self._scales[self._steps_done]
        return stepped

    @override
    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        if self._steps_done == len(self._scheduler.timesteps):
            return clean
        if self._scheduler.config.get("invert_sigmas"):  # its levels say how much is clean (Mochi)
            clean, noise = noise, clean
        timestep = self._scheduler.timesteps[self._steps_done][None]
        try:
            noised = self._scheduler.scale_noise(clean, timestep, noise)
        except AttributeError:  # what most call add_noise has this name in some flow schedulers
            noised = self._scheduler.add_noise(clean, noise, timestep)
        assert isinstance(noised, Tensor)
        return noised if self._scales is None else noised * self._scales[self._steps_done]

    @override
    def state(self) -> SamplerState:
        return read_state(self._scheduler, self._fresh, self._steps_done)

    def _solve(self, prediction: Tensor, timestep: Tensor, latents: Tensor) -> Tensor:
        (stepped, *_) = self._scheduler.step(
            prediction.float(), timestep, latents, return_dict=False, **self._options
        )
        assert isinstance(stepped, Tensor)
        return stepped


def _takes_sigmas(scheduler: Any) -> bool:
    return "sigmas" in inspect.signature(scheduler.set_timesteps).parameters
