"""Feature store: the tensors behind a feature cache, in device memory."""

from __future__ import annotations

from typing import final

from torch import Tensor

from longtake.caches.base import FeatureKey


@final
class FeatureStore:
    """Keys and values that outlive a task: one store per request, guidance batch and rank.

    Entries are put by one task and taken, once, by another; what nobody will read is never put.
    Keys are stored with rotary positions applied: positions are absolute, so they stay valid in
    every later window.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[FeatureKey, int], tuple[Tensor, Tensor]] = {}

    def put(self, key: FeatureKey, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep one layer's keys and values, each ``(B, S, N, D)``.

        The tensors are copied: a view would keep the whole window's keys alive.

        Raises:
            KeyError: The entry exists: two tasks claim to be the same.
        """
        if (key, layer) in self._entries:
            raise KeyError(f"layer {layer} of {key} is kept already")
        self._entries[key, layer] = (k.clone(), v.clone())

    def take(self, key: FeatureKey, layer: int) -> tuple[Tensor, Tensor]:
        """Remove and return one layer's keys and values, each ``(B, S, N, D)``.

        Raises:
            KeyError: No task has left the entry, or it has been taken.
        """
        return self._entries.pop((key, layer))

    def keys(self) -> list[tuple[FeatureKey, int]]:
        """Return the (entry, layer) pairs that are held, oldest first."""
        return list(self._entries)

    @property
    def held_bytes(self) -> int:
        """Bytes of all keys and values held now."""
        return sum(k.nbytes + v.nbytes for k, v in self._entries.values())

    def clear(self) -> None:
        """Drop every entry."""
        self._entries.clear()
