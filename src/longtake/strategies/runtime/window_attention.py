"""Window attention of a task: exchange, keep features, add features, kernel, exchange back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor

from longtake.caches import Chunk, FeatureStore, FeatureTable, Window
from longtake.caches.store import select
from longtake.caches.table import Piece
from longtake.models import Attend, Kernel, Operand
from longtake.models.layers.groups import TokenGroups
from longtake.strategies.exchange import Group, TokenShare, lined_up, overlap, split

Move = Callable[[Tensor, int], Tensor]
"""Moves kept keys along time: ``Positions.rotate``."""


@final
class WindowAttention:
    """Gives every layer of one task its ``attend``.

    The feature cache sits behind the exchange: a rank keeps the keys and values of the tokens and
    heads that it attends with, so what it holds is divided by the degree. Text tokens stand behind
    the window's video tokens; they are not kept, and stay at the end of the keys. Sparse layers
    group their tokens last, when the window's keys are complete: what is kept has no groups.

    Args:
        window: What the task reads and leaves.
        tokens_per_frame: Tokens of one latent frame.
        store: Where features outlive tasks.
        table: Where they are in the store; changed.
        kernel: The attention kernel.
        share: This rank's tokens and heads.
        move: Moves kept keys along time.
        text_tokens: Text tokens behind the video tokens.
        padding: How many of them, the last ones, no query may see: per branch, or one number for
            all branches.
        device: Where the operands of attention are.

    Attributes:
        left: By layer, the keys and values of each chunk that the task has left.
    """

    def __init__(
        self,
        window: Window,
        tokens_per_frame: int,
        store: FeatureStore,
        table: FeatureTable,
        kernel: Kernel,
        share: TokenShare,
        move: Move,
        text_tokens: int = 0,
        padding: Sequence[int] = (0,),
        device: torch.device | None = None,
    ) -> None:
        self._store = store
        self._kernel = kernel
        self._share = share
        self._move = move
        self._device = device
        video = len(window.frames) * tokens_per_frame
        self._total = video + text_tokens
        ring = share.ring_tokens(self._total)
        self._padding = [
            [len(overlap(part, range(self._total - count, self._total))) for part in ring]
            for count in padding
        ]
        self._lay_out_keys(window, table, ring)
        self._groups: dict[TokenGroups, list[Group]] = {}
        self.left: dict[int, list[tuple[Tensor, Tensor]]] = {}
        mine = ring[share.ring_index]
        self._video = len(overlap(mine, range(video)))
        self._before, self._after = (
            table.pieces(window.reads_before),
            table.pieces(window.reads_after),
        )
        self._drops = table.drop(window)
        # The window's frames, and how many of their tokens each ring rank has.
        frames = [
            range(first, first + tokens_per_frame) for first in range(0, video, tokens_per_frame)
        ]
        parts = [[len(overlap(part, frame)) for part in ring] for frame in frames]
        self._keeps: list[tuple[Chunk, list[slice]]] = []
        for chunk, numbers in table.keep(window, parts):
            kept = [overlap(mine, frames[number]) for number in numbers]
            self._keeps.append((chunk, _slices(kept, mine.start)))

    def layer(
        self, index: int, groups: TokenGroups | None = None, own: Kernel | None = None
    ) -> Attend:
        """Return the ``attend`` of one layer; call it exactly once.

        Args:
            index: Of the layer.
            groups: Of a layer whose self-attention is sparse.
            own: Kernel of a layer that has one of its own.
        """
        kernel = self._kernel if own is None else own
        return partial(self._attend, index, kernel, () if groups is None else self._split(groups))

    def pass_by(self, layer: int, left: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Drop and leave what a layer would that is not run; in place of ``layer``.

        Args:
            layer: Its index.
            left: Keys and values of each chunk that the task leaves.
        """
        self._drop(layer)
        self._leave(layer, list(left))

    def _lay_out_keys(self, window: Window, table: FeatureTable, ring: Sequence[range]) -> None:
        """Number the window's keys: a ring's ranks must know how much the others hold of it."""
        places: list[list[range]] = [[] for _ in ring]
        start = 0
        frames = [
            *table.parts(window.reads_before),
            [len(part) for part in ring],
            *table.parts(window.reads_after),
        ]
        for counts in frames:
            for spans, span in zip(places, lined_up(counts, start), strict=True):
                spans.append(span)
            start += sum(counts)
        self._places = places
        self._window_at = len(window.reads_before)
        self._keys = [sum(map(len, spans)) for spans in places]

    def _split(self, groups: TokenGroups) -> Sequence[Group]:
        if groups not in self._groups:
            mine = self._share.ring_index
            queries = self._places[mine][self._window_at]
            self._groups[groups] = split(groups, queries, self._places, mine, self._device)
        return self._groups[groups]

    def _attend(
        self,
        layer: int,
        kernel: Kernel,
        groups: Sequence[Group],
        q: Operand,
        k: Operand,
        v: Operand,
    ) -> Tensor:
        return self._share.attend(
            q,
            k,
            v,
            total=self._total,
            keys=self._keys,
            padding=self._padding,
            extend=partial(self._extend, layer),
            kernel=kernel,
            groups=groups,
        )

    def _extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take the entries that the window reads, drop and leave what it says."""
        before = [self._read(piece, layer) for piece in self._before]
        after = [self._read(piece, layer) for piece in self._after]
        extended = self._joined(before, k, 0, after), self._joined(before, v, 1, after)
        self._drop(layer)
        self._leave(layer, [(select(k, tokens), select(v, tokens)) for _, tokens in self._keeps])
        return extended

    def _drop(self, layer: int) -> None:
        for drop in self._drops:
            self._store.drop(drop.chunk, layer, drop.rest)

    def _leave(self, layer: int, left: list[tuple[Tensor, Tensor]]) -> None:
        for (chunk, _), (k, v) in zip(self._keeps, left, strict=True):
            self._store.put(chunk, layer, k, v)
        self.left[layer] = left

    def _read(self, piece: Piece, layer: int) -> tuple[Tensor, Tensor]:
        k, v = (x[:, piece.tokens] for x in self._store.get(piece.chunk, layer))
        return self._move(k, piece.shift) if piece.shift else k, v

    def _joined(
        self,
        before: Sequence[tuple[Tensor, Tensor]],
        own: Tensor,
        of: int,
        after: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Put keys (``of`` 0) or values (1) together: before, the window's, after, text."""
        if not (before or after):
            return own
        video, text = own[:, : self._video], own[:, self._video :]
        parts = [*(kv[of] for kv in before), video, *(kv[of] for kv in after), text]
        return torch.cat(parts, dim=1)


def _slices(tokens: Sequence[range], start: int) -> list[slice]:
    """Return consecutive tokens as slices behind ``start``, those that touch as one."""
    found: list[slice] = []
    for part in tokens:
        first, stop = part.start - start, part.stop - start
        if first == stop:
            continue
        if found and found[-1].stop == first:
            found[-1] = slice(found[-1].start, stop)
        else:
            found.append(slice(first, stop))
    return found or [slice(0, 0)]
