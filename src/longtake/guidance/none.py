"""NoGuidance: the prompt's prediction as it is, for models that were distilled without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor
from typing_extensions import override

from longtake.guidance.base import CONDITIONAL, Branch, Guidance, GuidanceState, GuidedStep


@final
class NoGuidance(Guidance):
    """Make one forward, with the prompt, whatever ``guidance_scale`` says."""

    @property
    @override
    def branches(self) -> tuple[Branch, ...]:
        return (CONDITIONAL,)

    @override
    def combine(
        self, predictions: Mapping[Branch, Tensor], at: GuidedStep, state: GuidanceState
    ) -> tuple[Tensor, GuidanceState]:
        return predictions[CONDITIONAL], state
