"""ClassifierFreeGuidance (CFG): away from the negative prompt, towards the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor
from typing_extensions import override

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


@final
class ClassifierFreeGuidance(Guidance):
    """Add ``guidance_scale`` times the difference of the prompt's and the negative prompt's.

    Ho and Salimans 2022, in the form of Imagen: ``negative + scale * (prompt - negative)``. Scales
    of 1 or less for all experts leave the second forward out.

    Args:
        settings: Of the run.
        rescale: Share of the prediction that gets the standard deviation of the prompt's, against
            overexposed pictures; 0: none.
        start: Share of the steps before guidance begins: before, the prompt's prediction counts.
        stop: Share of the steps after which it ends.
        last_scale: The scale of the last step, to which ``guidance_scale`` goes in a straight
            line over all steps; left out: it stays.
        told: The scale that a model with embedded guidance is told beside.
    """

    def __init__(
        self,
        settings: GuidanceSettings,
        rescale: float = 0.0,
        start: float = 0.0,
        stop: float = 1.0,
        last_scale: float | None = None,
        told: float = 1.0,
    ) -> None:
        super().__init__(settings)
        check_rescale(self, rescale)
        check_interval(self, start, stop)
        self.rescale = rescale
        self.start = start
        self.stop = stop
        self.last_scale = last_scale
        self.told = told

    @property
    @override
    def branches(self) -> tuple[Branch, ...]:
        most = max(*self.settings.scales, self.last_scale or 0.0)
        return (CONDITIONAL, UNCONDITIONAL) if most > 1 else (CONDITIONAL,)

    @override
    def combine(
        self, predictions: Mapping[Branch, Tensor], at: GuidedStep, state: GuidanceState
    ) -> tuple[Tensor, GuidanceState]:
        conditional = predictions[CONDITIONAL]
        if UNCONDITIONAL not in predictions or not is_within(at, self.start, self.stop):
            return conditional, state
        unconditional = predictions[UNCONDITIONAL].float()
        guided = unconditional + self.scale(at) * (conditional.float() - unconditional)
        return rescaled(guided, conditional, self.rescale), state

    def scale(self, at: GuidedStep) -> float:
        """Return the scale of a step."""
        first = self.settings.scales[at.expert]
        if self.last_scale is None or at.steps == 1:
            return first
        return first + (self.last_scale - first) * at.step / (at.steps - 1)

    @property
    @override
    def embedded(self) -> float:
        return self.told
