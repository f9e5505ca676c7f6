"""AdaptiveProjectedGuidance (APG): guidance without the part that oversaturates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

import torch
from torch import Tensor
from torch.nn.functional import normalize
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

_AVERAGE: Final = "running_average"


@final
class AdaptiveProjectedGuidance(Guidance):
    """Weaken what of the guidance points along the prompt's own prediction (APG).

    Sadat, Hilliges and Weber 2024 (arXiv 2410.02416): the difference of the two predictions is
    averaged over a block's steps, bounded in its norm, and split into a part along the prompt's
    prediction, which oversaturates, and the rest. Norms are of all of a block's numbers.

    Args:
        settings: Of the run.
        momentum: Of the running average of the differences over a block's steps; the paper's
            values are negative (-0.5). Left out: no average.
        norm: The largest norm of a difference; 0: any.
        eta: Share of the part along the prompt's prediction: 0 drops it, 1 keeps it.
        rescale: Share of the prediction that gets the standard deviation of the prompt's.
        start: Share of the steps before guidance begins.
        stop: Share of the steps after which it ends.
    """

    def __init__(
        self,
        settings: GuidanceSettings,
        momentum: float | None = None,
        norm: float = 15.0,
        eta: float = 1.0,
        rescale: float = 0.0,
        start: float = 0.0,
        stop: float = 1.0,
    ) -> None:
        super().__init__(settings)
        if norm < 0:
            raise ConfigurationError(
                f"AdaptiveProjectedGuidance.norm is {norm:g}; the least is 0, which bounds nothing."
            )
        check_rescale(self, rescale)
        check_interval(self, start, stop)
        self.momentum = momentum
        self.norm = norm
        self.eta = eta
        self.rescale = rescale
        self.start = start
        self.stop = stop

    @property
    @override
    def branches(self) -> tuple[Branch, ...]:
        guides = max(self.settings.scales) > 1
        return (CONDITIONAL, UNCONDITIONAL) if guides else (CONDITIONAL,)

    @override
    def combine(
        self, predictions: Mapping[Branch, Tensor], at: GuidedStep, state: GuidanceState
    ) -> tuple[Tensor, GuidanceState]:
        conditional = predictions[CONDITIONAL]
        if UNCONDITIONAL not in predictions or not is_within(at, self.start, self.stop):
            return conditional, state
        conditional, unconditional = conditional.float(), predictions[UNCONDITIONAL].float()
        difference = conditional - unconditional
        if self.momentum is not None:
            if _AVERAGE in state:
                difference = difference + self.momentum * state[_AVERAGE]
            state = {_AVERAGE: difference}
        update = self._projected(self._bounded(difference), conditional)
        guided = unconditional + self.settings.scales[at.expert] * update
        return rescaled(guided, conditional, self.rescale), state

    def _bounded(self, difference: Tensor) -> Tensor:
        if not self.norm:
            return difference
        size = difference.norm(p=2, dim=_dims(difference), keepdim=True)
        return difference * torch.minimum(torch.ones_like(size), self.norm / size)

    def _projected(self, difference: Tensor, conditional: Tensor) -> Tensor:
        # In float64: what is left of a difference across the prediction is small.
        whole, dims = difference.double(), _dims(difference)
        along = normalize(conditional.double(), dim=dims)  # type: ignore[arg-type]
        parallel = (whole * along).sum(dim=dims, keepdim=True) * along
        return (whole - parallel).float() + self.eta * parallel.float()


def _dims(of: Tensor) -> list[int]:
    return list(range(1, of.ndim))
