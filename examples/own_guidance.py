"""A guidance of one's own: CFG-Zero*, which first scales the negative prompt's prediction.

In YAML, with the folder of this file in ``PYTHONPATH``::

    model:
      guidance: {class_path: own_guidance.ZeroStar, init_args: {strength: 1.0}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor
from typing_extensions import override

from longtake.api import (
    CONDITIONAL,
    UNCONDITIONAL,
    Branch,
    ConfigurationError,
    Guidance,
    GuidanceSettings,
    GuidanceState,
    GuidedStep,
)


@final
class ZeroStar(Guidance):
    """Classifier-free guidance from the multiple of the negative prediction that is nearest.

    Fan et al. 2025 (arXiv 2503.18886), without its zeroed first steps.

    Args:
        settings: Of the run.
        strength: How much of that scaling is done, from 0 (plain guidance) to 1.
    """

    def __init__(self, settings: GuidanceSettings, strength: float = 1.0) -> None:
        super().__init__(settings)
        if not 0 <= strength <= 1:
            raise ConfigurationError(f"a strength of {strength:g} is no share; choose 0 to 1.")
        self.strength = strength

    @property
    @override
    def branches(self) -> tuple[Branch, ...]:
        return (CONDITIONAL, UNCONDITIONAL)

    @override
    def combine(
        self, predictions: Mapping[Branch, Tensor], at: GuidedStep, state: GuidanceState
    ) -> tuple[Tensor, GuidanceState]:
        conditional, negative = predictions[CONDITIONAL].float(), predictions[UNCONDITIONAL].float()
        nearest = (conditional * negative).sum() / (negative.square().sum() + 1e-8)
        negative = negative * (1 + self.strength * (nearest - 1))
        scale = self.settings.scales[at.expert]
        return negative + scale * (conditional - negative), state
