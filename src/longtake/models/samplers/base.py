"""The contract of a sampler: the noise levels of a run, and one block's way down them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor

from longtake.errors import ConfigurationError
from longtake.models.samplers.scheduler_options import DiffusersScheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSettings:
    """What a run and its model say about noise levels.

    Args:
        steps: Denoising steps, one forward each; 1 or more.
        shift: Shift of the noise levels: the user's, or else the model's own; ``None``: it has
            none. Level ``s`` of a flow becomes ``shift * s / (1 + (shift - 1) * s)``.
        sigmas: Noise levels before the shift, one per step: the user's (``model.timesteps``), or
            else those of a model that has a list of its own; ``None``: the sampler's own.
        scheduler: Name of the diffusers scheduler that the model ships.
        config: Configuration of that scheduler, for instance its ``prediction_type``.
        flow: Whether the model predicts the flow from clip to noise, ``noise - clip``.
    """

    steps: int
    shift: float | None = None
    sigmas: tuple[float, ...] | None = None
    scheduler: str = "FlowMatchEulerDiscreteScheduler"
    config: Mapping[str, Any] = field(default_factory=dict)
    flow: bool = True

    @property
    def train_timesteps(self) -> int:
        """What the model is told for pure noise, in units of its training schedule."""
        return int(self.config.get("num_train_timesteps", 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerState:
    """What has to be kept of a block's sampler so that the block can go on later.

    Args:
        tensors: By name, on the block's device; the sampler goes on using them, and does not
            change them.
        numbers: By name.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, float | str | None] = field(default_factory=dict)


class BlockSampler(ABC):
    """One block's sampler: how many steps it has behind it, and what its solver remembers.

    A block's frames may be stepped with frames of other values beside them: everything works
    element by element.
    """

    @abstractmethod
    def step(self, prediction: Tensor, latents: Tensor, noise: Tensor | None = None) -> Tensor:
        """Take the next step, in fp32.

        Args:
            prediction: The model's output after guidance, ``(1, C, F, H, W)``.
            latents: As the model saw them, ``(1, C, F, H, W)`` fp32; not changed.
            noise: The step's own, of the same shape; ``None`` for a sampler that is not
                stochastic. Not changed.

        Returns:
            The latents as the model is to see them next; after the last step the clip's.
        """

    @abstractmethod
    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Return clean latents at the noise level that the next step starts from.

        Args:
            clean: ``(1, C, F, H, W)`` fp32; returned as they are after the last step.
            noise: Of the same shape, as a block starts from.
        """

    @abstractmethod
    def state(self) -> SamplerState:
        """Return what ``Sampler.start`` needs to go on after the steps taken so far."""


class Sampler(ABC):
    """The noise levels of a run, and the start of every block's own sampler.

    It draws no random numbers: the noise of a step is handed in. To be chosen in YAML by its
    ``class_path``, a sampler takes ``SamplerSettings`` as the first argument of its
    ``__init__``; further ones are its options.
    """

    @property
    @abstractmethod
    def timesteps(self) -> tuple[float, ...]:
        """What the model is told at each step, first step first: any numbers, one per step."""

    @property
    def stochastic(self) -> bool:
        """Whether steps need noise of their own."""
        return False

    @abstractmethod
    def start(self, state: SamplerState | None = None) -> BlockSampler:
        """Return the sampler of a block.

        Args:
            state: Of a block that has been stepped before; ``None`` for one that enters.
        """

    def start_at(self, step: int) -> BlockSampler:
        """Return the sampler of a block that comes in at the level of a later step.

        By default refused.

        Args:
            step: Which one, of those of ``timesteps``.

        Raises:
            ConfigurationError: The sampler cannot begin there.
        """
        raise ConfigurationError(
            f"the sampler {type(self).__name__} cannot begin at a later step, as this scheduler's "
            f"blocks do; choose FlowMatchEulerDiscreteScheduler."
        )

    def first(self, noise: Tensor) -> Tensor:
        """Return the latents that a block's first step sees; by default its noise itself.

        Args:
            noise: Standard normal, ``(1, C, F, H, W)`` fp32; not changed.
        """
        return noise


SamplerChoice: TypeAlias = str | DiffusersScheduler | Callable[[SamplerSettings], Sampler] | None
"""A diffusers scheduler's name, one with options, what makes a sampler of the settings, or the
model's own."""
