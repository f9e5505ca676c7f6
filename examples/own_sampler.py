"""A sampler of one's own: Euler's method for flows, with some of the noise drawn anew.

In YAML, with the folder of this file in ``PYTHONPATH``::

    model:
      sampler: {class_path: own_sampler.ChurnedEuler, init_args: {churn: 0.3}}
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.api import BlockSampler, Sampler, SamplerSettings, SamplerState


@final
class ChurnedEuler(Sampler):
    """Euler's method on a straight line from noise to clip.

    Args:
        settings: Of the run.
        churn: Share of the noise that each step replaces by its own, from 0 to 1.
    """

    def __init__(self, settings: SamplerSettings, churn: float = 0.0) -> None:
        even = torch.linspace(1, 0, settings.steps + 1)
        levels = even if settings.sigmas is None else torch.tensor([*settings.sigmas, 0.0])
        shift = settings.shift or 1.0
        self.levels: list[float] = (shift * levels / (1 + (shift - 1) * levels)).tolist()
        self._told = tuple(level * settings.train_timesteps for level in self.levels[:-1])
        self.churn = churn

    @property
    @override
    def timesteps(self) -> tuple[float, ...]:
        return self._told

    @property
    @override
    def stochastic(self) -> bool:
        return self.churn > 0

    @override
    def start(self, state: SamplerState | None = None) -> BlockSampler:
        return Block(self, 0 if state is None else int(state.numbers["done"] or 0))


@final
class Block(BlockSampler):
    """One block on its way: it remembers nothing but its place."""

    def __init__(self, sampler: ChurnedEuler, done: int) -> None:
        self._sampler = sampler
        self._done = done

    @override
    def step(self, prediction: Tensor, latents: Tensor, noise: Tensor | None = None) -> Tensor:
        level, following = self._sampler.levels[self._done : self._done + 2]
        self._done += 1
        clip = latents - level * prediction.float()
        kept = latents + (1 - level) * prediction.float()  # the noise that the model sees
        if noise is not None:  # of the same variance: the squares of the shares add up to 1
            share = self._sampler.churn
            kept = (1 - share) ** 0.5 * kept + share**0.5 * noise
        return torch.lerp(clip, kept, following)

    @override
    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        return torch.lerp(clean, noise, self._sampler.levels[self._done])

    @override
    def state(self) -> SamplerState:
        return SamplerState(numbers={"done": self._done})
