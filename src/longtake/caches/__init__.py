"""Feature caches: which keys and values outlive a task, and which later tasks read."""

from longtake.caches.anchor_kv import AnchorKV
from longtake.caches.base import Entry, FeatureCache, Held, Kept, Read, Window
from longtake.caches.budget import (
    Unread,
    peak_held_frames,
    settled_forwards,
    settled_held_frames,
    unread_entries,
)
from longtake.caches.forwards import Forward, forwards
from longtake.caches.next_block_kv import NextBlockKV
from longtake.caches.no_cache import NoCache
from longtake.caches.packing import KeptFormat, kept_bytes
from longtake.caches.rolling_kv import RollingKV
from longtake.caches.same_step_kv import SameStepKV
from longtake.caches.store import Chunk, FeatureStore
from longtake.caches.table import FeatureTable

__all__ = [
    "AnchorKV",
    "Chunk",
    "Entry",
    "FeatureCache",
    "FeatureStore",
    "FeatureTable",
    "Forward",
    "Held",
    "Kept",
    "KeptFormat",
    "NextBlockKV",
    "NoCache",
    "Read",
    "RollingKV",
    "SameStepKV",
    "Unread",
    "Window",
    "forwards",
    "kept_bytes",
    "peak_held_frames",
    "settled_forwards",
    "settled_held_frames",
    "unread_entries",
]
