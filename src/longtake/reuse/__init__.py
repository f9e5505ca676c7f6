"""Layer reuse: forwards that run the first layer and add what the others added before."""

from longtake.reuse.accumulated_change import AccumulatedChange
from longtake.reuse.base import LayerReuse, ReuseChoice, ReuseStep
from longtake.reuse.first_block_cache import FirstBlockCache

__all__ = ["AccumulatedChange", "FirstBlockCache", "LayerReuse", "ReuseChoice", "ReuseStep"]
