"""AccumulatedChange: layers are reused until what has changed adds up (TeaCache's rule)."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.reuse.base import LayerReuse, ReuseStep


@final
class AccumulatedChange(LayerReuse):
    """Reuse the layers until the changes from step to step add up to ``threshold``.

    TeaCache's rule (Liu et al. 2024, arXiv 2411.19108): each change goes through a polynomial that
    was fitted to a model, and the sum begins anew with each forward of all layers. The first and
    last steps run all layers. TeaCache measures the modulated input of the first layer, which is
    inside a model; here it is what the first layer adds, so coefficients published for TeaCache do
    not carry over: fit your own, or leave them.

    Args:
        threshold: Of the sum.
        coefficients: Of the polynomial, highest power first.
        warm_up: Steps at the beginning that run all layers.
    """

    compares_with = "last"

    def __init__(
        self, threshold: float = 0.1, coefficients: list[float] | None = None, warm_up: int = 1
    ) -> None:
        if threshold < 0 or warm_up < 0:
            raise ConfigurationError(
                f"AccumulatedChange cannot have a threshold of {threshold:g} and a warm_up of "
                f"{warm_up}; the least is 0."
            )
        self.threshold = threshold
        self.coefficients = [1.0, 0.0] if coefficients is None else coefficients
        self.warm_up = warm_up

    @override
    def decide(self, change: float, at: ReuseStep, memory: float) -> tuple[bool, float]:
        rescaled = 0.0
        for coefficient in self.coefficients:
            rescaled = rescaled * change + coefficient
        total = memory + abs(rescaled)
        early = at.step < self.warm_up
        reused = not early and at.step < at.steps - 1 and total < self.threshold  # NaN is not
        return reused, total if reused else 0.0
