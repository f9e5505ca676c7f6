"""FirstBlockCache: layers are reused while the first one says much the same."""

from __future__ import annotations

from typing import final

from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.reuse.base import LayerReuse, ReuseStep


@final
class FirstBlockCache(LayerReuse):
    """Reuse the layers where the first one's change is at most ``threshold``.

    ParaAttention's first-block cache, as diffusers has it (``FirstBlockCacheConfig``); one decision
    for all guidance branches, by the prompt's.

    Args:
        threshold: Largest relative change; larger ones are faster and further from the video that
            all layers make.
    """

    def __init__(self, threshold: float = 0.05) -> None:
        if threshold < 0:
            raise ConfigurationError(
                f"FirstBlockCache.threshold is {threshold:g}; the least is 0, which reuses nothing."
            )
        self.threshold = threshold

    @override
    def decide(self, change: float, at: ReuseStep, memory: float) -> tuple[bool, float]:
        return change <= self.threshold, 0.0
