"""Feature caches: which keys and values outlive a task, and which a later task reads."""

from longtake.caches.base import FeatureCache, FeatureKey, Part, Window
from longtake.caches.budget import peak_held_frames
from longtake.caches.next_block_kv import NextBlockKV
from longtake.caches.no_cache import NoCache
from longtake.caches.same_step_kv import SameStepKV
from longtake.caches.store import FeatureStore

__all__ = [
    "FeatureCache",
    "FeatureKey",
    "FeatureStore",
    "NextBlockKV",
    "NoCache",
    "Part",
    "SameStepKV",
    "Window",
    "peak_held_frames",
]
