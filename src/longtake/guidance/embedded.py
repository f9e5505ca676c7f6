"""EmbeddedGuidance: a model is told the scale, and needs no second forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor
from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.guidance.base import (
    CONDITIONAL,
    Branch,
    Guidance,
    GuidanceSettings,
    GuidanceState,
    GuidedStep,
)


@final
class EmbeddedGuidance(Guidance):
    """Tell the model ``guidance_scale``, for models that were distilled so (HunyuanVideo).

    Args:
        settings: Of the run.

    Raises:
        ConfigurationError: The model is not told a scale.
    """

    def __init__(self, settings: GuidanceSettings) -> None:
        super().__init__(settings)
        if not settings.embeds:
            raise ConfigurationError(
                "model.guidance is EmbeddedGuidance, but this model is not told a scale: choose "
                "ClassifierFreeGuidance, or leave model.guidance out."
            )

    @property
    @override
    def branches(self) -> tuple[Branch, ...]:
        return (CONDITIONAL,)

    @override
    def combine(
        self, predictions: Mapping[Branch, Tensor], at: GuidedStep, state: GuidanceState
    ) -> tuple[Tensor, GuidanceState]:
        return predictions[CONDITIONAL], state

    @property
    @override
    def embedded(self) -> float:
        return self.settings.scales[0]
