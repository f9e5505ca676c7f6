"""Feature store: the tensors behind a feature cache, in device memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

from longtake.caches.packing import KeptFormat, Packed

_Kept: TypeAlias = Tensor | Packed


@dataclass(frozen=True, slots=True, order=True)
class Chunk:
    """Names what one task leaves and what is dropped together.

    Args:
        index: The task.
        part: Which of its chunks.
    """

    index: int
    part: int


@final
class FeatureStore:
    """Keys and values that outlive a task: one store per request, guidance batch and rank.

    Which frames' they are, where, is known from the schedule
    (:class:`longtake.caches.table.FeatureTable`); here are the tensors. Keys are stored with rotary
    positions applied: positions are absolute, so they stay valid in every later window.

    Args:
        kept: The format that they are held in.
    """

    def __init__(self, kept: KeptFormat = "model") -> None:
        self._kept: KeptFormat = kept
        self._chunks: dict[tuple[Chunk, int], tuple[_Kept, _Kept]] = {}

    def put(self, chunk: Chunk, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep one layer's keys and values, each ``(B, S, N, D)``; tensors of their own.

        Raises:
            KeyError: The chunk exists: two tasks claim to be the same.
        """
        if (chunk, layer) in self._chunks:
            raise KeyError(f"layer {layer} of {chunk} is kept already")
        self._chunks[chunk, layer] = (self._hold(k), self._hold(v))

    def get(self, chunk: Chunk, layer: int) -> tuple[Tensor, Tensor]:
        """Return one layer's keys and values, each ``(B, S, N, D)``; not to be changed.

        Raises:
            KeyError: No task has left the chunk, or it has been dropped.
        """
        k, v = self._chunks[chunk, layer]
        return _unpacked(k), _unpacked(v)

    def drop(self, chunk: Chunk, layer: int, rest: Sequence[slice] = ()) -> None:
        """Drop a layer of a chunk, but for ``rest``: tokens that stay, in a tensor of their own.

        Raises:
            KeyError: It is not there.
        """
        k, v = self._chunks.pop((chunk, layer))
        if rest:
            own = (select(_unpacked(k), rest), select(_unpacked(v), rest))
            self._chunks[chunk, layer] = (self._hold(own[0]), self._hold(own[1]))

    def chunks(self) -> list[tuple[Chunk, int]]:
        """Return the (chunk, layer) pairs that are held, oldest first."""
        return list(self._chunks)

    @property
    def held_bytes(self) -> int:
        """Bytes of all keys and values held now."""
        return sum(k.nbytes + v.nbytes for k, v in self._chunks.values())

    def clear(self) -> None:
        """Drop everything."""
        self._chunks.clear()

    def _hold(self, x_BSND: Tensor) -> _Kept:
        return x_BSND if self._kept == "model" else Packed.of(x_BSND, self._kept)


def select(x_BSND: Tensor, tokens: Sequence[slice]) -> Tensor:
    """Return some tokens, at least one slice of them, copied: a view would keep the others."""
    if len(tokens) == 1:
        return x_BSND[:, tokens[0]].clone()
    return torch.cat([x_BSND[:, part] for part in tokens], dim=1)


def _unpacked(kept: _Kept) -> Tensor:
    return kept.unpack() if isinstance(kept, Packed) else kept
