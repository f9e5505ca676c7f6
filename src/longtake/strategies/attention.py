"""Self-attention of one task: keep features, add features, kernel."""

from __future__ import annotations

from functools import partial
from typing import final

import torch
from torch import Tensor

from longtake.caches import FeatureStore, Window
from longtake.models import Attend


@final
class WindowAttention:
    """Gives every layer of one task its ``attend``.

    Args:
        window: What the task reads and leaves.
        tokens_per_frame: Tokens of one latent frame.
        store: Where features outlive tasks.
        kernel: The attention kernel.
    """

    def __init__(
        self, window: Window, tokens_per_frame: int, store: FeatureStore, kernel: Attend
    ) -> None:
        self._window = window
        self._store = store
        self._kernel = kernel
        self._keeps = [
            (key, _tokens(frames.within(window.frames), tokens_per_frame))
            for key, frames in window.keeps
        ]

    def layer(self, index: int) -> Attend:
        """Return the ``attend`` of one layer; call it exactly once."""
        return partial(self._attend, index)

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = [k], [v]
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
        if len(keys) > 1:
            k, v = torch.cat(keys, dim=1), torch.cat(values, dim=1)
        return self._kernel(q, k, v)


def _tokens(frames: slice, tokens_per_frame: int) -> slice:
    return slice(frames.start * tokens_per_frame, frames.stop * tokens_per_frame)
