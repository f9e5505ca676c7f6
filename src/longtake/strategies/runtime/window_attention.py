"""Window attention of a task: exchange, keep features, add features, kernel, exchange back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor

from longtake.caches import FeatureKey, FeatureStore, Window
from longtake.models import Attend, Kernel, Operand
from longtake.models.layers.groups import TokenGroups
from longtake.strategies.exchange import Group, TokenShare, lined_up, overlap, split


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
        kernel: The attention kernel.
        share: This rank's tokens and heads.
        held: Tokens that each ring coordinate holds of every entry; changed.
        text_tokens: Text tokens behind the video tokens.
        padding: How many of them, the last ones, no query may see: per branch, or one number for
            all branches.
        device: Where the operands of attention are.
    """

    def __init__(
        self,
        window: Window,
        tokens_per_frame: int,
        store: FeatureStore,
        kernel: Kernel,
        share: TokenShare,
        held: dict[FeatureKey, list[int]],
        text_tokens: int = 0,
        padding: Sequence[int] = (0,),
        device: torch.device | None = None,
    ) -> None:
        self._window = window
        self._store = store
        self._kernel = kernel
        self._share = share
        self._device = device
        video = len(window.frames) * tokens_per_frame
        self._total = video + text_tokens
        ring = share.ring_tokens(self._total)
        self._padding = [
            [len(overlap(part, range(self._total - count, self._total))) for part in ring]
            for count in padding
        ]
        # A ring's ranks must know how much the others hold, groups which tokens these are.
        before, after = (
            [0] * len(ring) if key is None else held.pop(key)
            for key in (window.reads_before, window.reads_after)
        )
        window_parts = lined_up([len(part) for part in ring], sum(before))
        added = lined_up(before), lined_up(after, sum(before) + self._total)
        self._places = list(zip(added[0], window_parts, added[1], strict=True))
        self._keys = [sum(map(len, spans)) for spans in self._places]
        self._groups: dict[TokenGroups, list[Group]] = {}
        mine = ring[share.ring_index]
        self._video = len(overlap(mine, range(video)))
        self._keeps = []
        for key, frames in window.keeps:
            kept = _tokens(frames.within(window.frames), tokens_per_frame)
            held[key] = [len(overlap(part, kept)) for part in ring]
            part = overlap(mine, kept)
            self._keeps.append((key, slice(part.start - mine.start, part.stop - mine.start)))

    def layer(self, index: int, groups: TokenGroups | None = None) -> Attend:
        """Return the ``attend`` of one layer; call it exactly once.

        Args:
            index: Of the layer.
            groups: Of a layer whose self-attention is sparse.
        """
        return partial(self._attend, index, () if groups is None else self._split(groups))

    def _split(self, groups: TokenGroups) -> Sequence[Group]:
        if groups not in self._groups:
            mine = self._share.ring_index
            queries = self._places[mine][1]
            self._groups[groups] = split(groups, queries, self._places, mine, self._device)
        return self._groups[groups]

    def _attend(
        self, layer: int, groups: Sequence[Group], q: Operand, k: Operand, v: Operand
    ) -> Tensor:
        return self._share.attend(
            q,
            k,
            v,
            total=self._total,
            keys=self._keys,
            padding=self._padding,
            extend=partial(self._extend, layer),
            kernel=self._kernel,
            groups=groups,
        )

    def _extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take the entries that the window reads, leave those that it keeps."""
        keys, values = [k[:, : self._video]], [v[:, : self._video]]
        if self._window.reads_before is not None:
            before_k, before_v = self._store.take(self._window.reads_before, layer)
            keys.insert(0, before_k)
            values.insert(0, before_v)
        if self._window.reads_after is not None:
            after_k, after_v = self._store.take(self._window.reads_after, layer)
            keys.append(after_k)
            values.append(after_v)
        for key, tokens in self._keeps:
            self._store.put(key, layer, k[:, tokens], v[:, tokens])
        if len(keys) == 1:
            return k, v
        text_k, text_v = k[:, self._video :], v[:, self._video :]
        return torch.cat([*keys, text_k], dim=1), torch.cat([*values, text_v], dim=1)


def _tokens(frames: slice, tokens_per_frame: int) -> range:
    return range(frames.start * tokens_per_frame, frames.stop * tokens_per_frame)
