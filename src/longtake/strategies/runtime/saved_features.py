"""Saved features: kept keys and values as tensors named by layer, branch and entry, and back.

Every rank saves those of its own layers, branches, tokens and heads. Another number of stages
reads them from whoever has them; the tokens and heads of an entry must be cut alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor

from longtake.caches import Chunk, Entry, FeatureStore, FeatureTable
from longtake.errors import ConfigurationError
from longtake.strategies.exchange import TokenShare
from longtake.strategies.runtime.cuts import CutState


def features_state(
    store: FeatureStore, table: FeatureTable, branches: range, share: TokenShare
) -> tuple[dict[str, Tensor], list[Any]]:
    """Return what a rank keeps between two tasks: tensors by name, and the entries that are held.

    Args:
        store: The tensors.
        table: Where entries are in them.
        branches: Rows of the tensors.
        share: The rank's tokens and heads.
    """
    tensors: dict[str, Tensor] = {}
    layers = sorted({layer for _, layer in store.chunks()})
    for entry, (chunk, tokens) in table.held().items():
        for layer in layers:
            for part, x in zip("kv", store.get(chunk, layer), strict=True):
                for row, branch in enumerate(branches):
                    name = _name(layer, branch, entry, share, part)
                    tensors[name] = x[row : row + 1, tokens]
    entries = [[entry.frame, entry.index, list(table.counts(entry))] for entry in table.held()]
    return tensors, entries


@final
class SavedFeatures:
    """What a request that goes on has kept before, as one rank needs it.

    Args:
        state: What all ranks held.
        branches: The rank's.
        share: The rank's tokens and heads.
        device: The rank's.
    """

    def __init__(
        self, state: CutState, branches: range, share: TokenShare, device: torch.device
    ) -> None:
        self._tensors = state.tensors
        self._branches = branches
        self._share = share
        self._device = device
        self._entries = [
            (Entry(frame, index), Chunk(index, number), counts)
            for number, (frame, index, counts) in enumerate(state.facts.get("entries", ()))
        ]
        self._restored: set[int] = set()

    def table(self) -> FeatureTable:
        """Return where the entries are."""
        table = FeatureTable(self._share.ring_index)
        for entry, chunk, counts in self._entries:
            table.put(entry, chunk, counts)
        return table

    def restore(self, store: FeatureStore, layers: Iterable[int]) -> None:
        """Put what layers have kept into the store, unless that is done.

        Raises:
            ConfigurationError: It was cut otherwise.
        """
        for layer in set(layers) - self._restored:
            self._restored.add(layer)
            for entry, chunk, _ in self._entries:
                k, v = (
                    torch.cat([self._read(layer, branch, entry, part) for branch in self._branches])
                    for part in "kv"
                )
                store.put(chunk, layer, k.to(self._device), v.to(self._device))

    def _read(self, layer: int, branch: int, entry: Entry, part: str) -> Tensor:
        name = _name(layer, branch, entry, self._share, part)
        if name not in self._tensors:
            raise ConfigurationError(
                "the run cannot go on with other ring and Ulysses degrees: its snapshot holds keys "
                "and values that were cut otherwise; choose the degrees that it was begun with; "
                "another number of stages is fine."
            )
        return self._tensors[name]


def _name(layer: int, branch: int, entry: Entry, share: TokenShare, part: str) -> str:
    where = f"features/{layer}/{branch}/{entry.frame}-{entry.index}"
    return where + (f"/{part}" if share.size == 1 else f"/{share.place}/{part}")
