"""Guidance by a weakened model: away from a forward some of whose layers are perturbed.

Spatiotemporal skip guidance (Hyung et al. 2024, arXiv 2411.18664) knows both ways for video:
``PerturbedAttentionGuidance`` (its STG-A; Ahn et al. 2024, arXiv 2403.17377, for images) takes
attention away, ``SkipLayerGuidance`` (its STG-R) whole layers.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import final

from torch import Tensor
from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.guidance.base import (
    CONDITIONAL,
    UNCONDITIONAL,
    Branch,
    Guidance,
    GuidanceSettings,
    GuidanceState,
    GuidedStep,
)
from longtake.guidance.interval import check_interval, is_within
from longtake.guidance.rescale import check_rescale, rescaled


class WeakenedGuidance(Guidance):
    """Classifier-free guidance, and away from a forward of the prompt that is perturbed.

    ``model.guidance_scale`` weighs the first, ``scale`` the second. With a ``guidance_scale`` of 1
    or less there is no forward with the negative prompt.

    Args:
        settings: Of the run.
        layers: That are perturbed, from 0.
        scale: Of the difference to the perturbed prediction.
        weakened_start: Share of the steps up to, and with, which nothing is perturbed.
        weakened_stop: Share of the steps after which nothing is perturbed.
        rescale: Share of the prediction that gets the standard deviation of the prompt's.
        start: Share of the steps before classifier-free guidance begins.
        stop: Share of the steps after which it ends.

    Raises:
        ConfigurationError: The model has no such layer, or a number cannot be.
    """

    def __init__(
        self,
        settings: GuidanceSettings,
        layers: list[int],
        scale: float = 2.8,
        weakened_start: float = 0.01,
        weakened_stop: float = 0.2,
        rescale: float = 0.0,
        start: float = 0.0,
        stop: float = 1.0,
    ) -> None:
        super().__init__(settings)
        name, last = type(self).__name__, settings.layers - 1
        if not layers:
            raise ConfigurationError(
                f"{name}.layers is empty: name layers to perturb, from 0 to {last}."
            )
        for layer in layers:
            if not 0 <= layer <= last:
                raise ConfigurationError(
                    f"{name} is to perturb layer {layer}, but the model has layers 0 to {last}; "
                    f"the nearest is {min(max(layer, 0), last)}."
                )
        check_rescale(self, rescale)
        check_interval(self, weakened_start, weakened_stop)
        check_interval(self, start, stop)
        self.layers = sorted(set(layers))
        self.scale = scale
        self.weakened_start = weakened_start
        self.weakened_stop = weakened_stop
        self.rescale = rescale
        self.start = start
        self.stop = stop

    @property
    @abstractmethod
    def weakened(self) -> Branch:
        """The forward that is perturbed."""

    @property
    @override
    def branches(self) -> tuple[Branch, ...]:
        guides = max(self.settings.scales) > 1
        first = (CONDITIONAL, UNCONDITIONAL) if guides else (CONDITIONAL,)
        return (*first, self.weakened) if self.scale else first

    @override
    def combine(
        self, predictions: Mapping[Branch, Tensor], at: GuidedStep, state: GuidanceState
    ) -> tuple[Tensor, GuidanceState]:
        conditional = predictions[CONDITIONAL].float()
        scale = self.settings.scales[at.expert]
        negative = UNCONDITIONAL in predictions and is_within(at, self.start, self.stop)
        negative = negative and not math.isclose(scale, 1.0)
        within = is_within(at, self.weakened_start, self.weakened_stop, after_start=True)
        weakened = self.weakened in predictions and within
        if not (negative or weakened):
            return predictions[CONDITIONAL], state
        base = predictions[UNCONDITIONAL if negative else self.weakened].float()
        guided = base
        if negative:
            guided = guided + scale * (conditional - base)
        if weakened:
            guided = guided + self.scale * (conditional - predictions[self.weakened].float())
        return rescaled(guided, conditional, self.rescale), state


@final
class PerturbedAttentionGuidance(WeakenedGuidance):
    """Away from a forward whose self-attention is the identity in some layers (PAG, STG-A).

    A further forward in every step, about half again of what a step with the negative prompt
    costs. diffusers' values for large models are a ``scale`` of 2.8 and layers in the middle.

    Args:
        settings: Of the run.
        layers: In which every token of that forward sees itself alone, from 0.
        scale: Of the difference to that forward.
        weakened_start: Share of the steps up to, and with, which it does not count.
        weakened_stop: Share of the steps after which it does not count.
        rescale: Share of the prediction that gets the standard deviation of the prompt's.
        start: Share of the steps before classifier-free guidance begins.
        stop: Share of the steps after which it ends.
    """

    @property
    @override
    def weakened(self) -> Branch:
        return Branch(unattended=tuple(self.layers))


@final
class SkipLayerGuidance(WeakenedGuidance):
    """Away from a forward that leaves some layers out (SLG, STG-R).

    A further forward in every step, about half again of what a step with the negative prompt
    costs.

    Args:
        settings: Of the run.
        layers: That are left out, from 0.
        scale: Of the difference to that forward.
        weakened_start: Share of the steps up to, and with, which it does not count.
        weakened_stop: Share of the steps after which it does not count.
        rescale: Share of the prediction that gets the standard deviation of the prompt's.
        start: Share of the steps before classifier-free guidance begins.
        stop: Share of the steps after which it ends.
    """

    @property
    @override
    def weakened(self) -> Branch:
        return Branch(skipped=tuple(self.layers))
