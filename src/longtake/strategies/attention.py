"""Self-attention of one task: exchange, keep features, add features, kernel, exchange back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import final

import torch
from torch import Tensor

from longtake.caches import FeatureKey, FeatureStore, Window
from longtake.models import Attend
from longtake.strategies.exchange import TokenShare, overlap


@final
class WindowAttention:
    """Gives every layer of one task its ``attend``.

    The feature cache sits behind the exchange: a rank keeps the keys and values of the tokens and
    heads that it attends with, so what it holds is divided by the degree. Text tokens stand behind
    the window's video tokens; they are not kept, and stay at the end of the keys.

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
    """

    def __init__(
        self,
        window: Window,
        tokens_per_frame: int,
        store: FeatureStore,
        kernel: Attend,
        share: TokenShare,
        held: dict[FeatureKey, list[int]],
        text_tokens: int = 0,
        padding: Sequence[int] = (0,),
    ) -> None:
        self._window = window
        self._store = store
        self._kernel = kernel
        self._share = share
        video = len(window.frames) * tokens_per_frame
        self._total = video + text_tokens
        ring = share.ring_tokens(self._total)
        self._keys = [len(part) for part in ring]
        self._padding = [
            [len(overlap(part, range(self._total - count, self._total))) for part in ring]
            for count in padding
        ]
        if len(ring) > 1:  # a ring's ranks must know how much the others hold
            for key in (window.reads_before, window.reads_after):
                added = [0] * len(ring) if key is None else held.pop(key)
                self._keys = [sum(pair) for pair in zip(self._keys, added, strict=True)]
        mine = ring[share.ring_index]
        self._video = len(overlap(mine, range(video)))
        self._keeps = []
        for key, frames in window.keeps:
            kept = _tokens(frames.within(window.frames), tokens_per_frame)
            if len(ring) > 1:
                held[key] = [len(overlap(part, kept)) for part in ring]
            part = overlap(mine, kept)
            self._keeps.append((key, slice(part.start - mine.start, part.stop - mine.start)))

    def layer(self, index: int) -> Attend:
        """Return the ``attend`` of one layer; call it exactly once."""
        return partial(self._attend, index)

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._share.attend(
            q,
            k,
            v,
            total=self._total,
            keys=self._keys,
            padding=self._padding,
            extend=partial(self._extend, layer),
            kernel=self._kernel,
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
