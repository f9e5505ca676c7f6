"""A rule of one's own for reusing layers: not twice in a row, and not in the last steps.

In YAML, with the folder of this file in ``PYTHONPATH``::

    model:
      reuse: {class_path: own_reuse.EverySecond, init_args: {threshold: 0.2}}
"""

from __future__ import annotations

from typing import final

from typing_extensions import override

from longtake.api import ConfigurationError, LayerReuse, ReuseStep


@final
class EverySecond(LayerReuse):
    """Reuse the layers at most every second step, where the first one changes little.

    Args:
        threshold: Largest relative change.
        last: Share of the steps from which on all layers run.
    """

    def __init__(self, threshold: float = 0.2, last: float = 0.8) -> None:
        if not 0 <= last <= 1:
            raise ConfigurationError(f"EverySecond.last is {last:g}, no share; choose 0 to 1.")
        self.threshold = threshold
        self.last = last

    @override
    def decide(self, change: float, at: ReuseStep, memory: float) -> tuple[bool, float]:
        early = at.step < self.last * at.steps
        return early and not at.reused and change <= self.threshold, memory
