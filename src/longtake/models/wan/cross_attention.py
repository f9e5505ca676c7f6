"""Wan's cross-attention on keys and values that are computed once per prompt."""

from __future__ import annotations

from functools import reduce
from typing import Any, cast, final

import torch
from torch import Tensor

from longtake.models.base import Kernel

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one source, text or image, each ``(B, L, N, D)``."""


def keys_and_values(attn: Any, text: Tensor, image: Tensor | None) -> list[KeyValue]:
    """Return what a layer's cross-attention reads.

    Args:
        attn: The layer's cross-attention.
        text: Embedded text ``(B, L, M)``.
        image: Embedded first frame ``(B, L', M)`` of Wan 2.1 I2V.
    """
    sources = [(attn.norm_k(attn.to_k(text)), attn.to_v(text))]
    if image is not None:
        sources.append((attn.norm_added_k(attn.add_k_proj(image)), attn.add_v_proj(image)))
    heads = (attn.heads, -1)
    return [(k.unflatten(2, heads), v.unflatten(2, heads)) for k, v in sources]


@final
class CrossAttention:
    """Processor of a layer's cross-attention; keys, values and kernel come in with the call."""

    def __call__(
        self,
        attn: Any,
        x: Tensor,
        carried: tuple[list[KeyValue], Kernel],
        _mask: None,
        _rotary: None,
    ) -> Tensor:
        """Attend to each source on its own, and add."""
        sources, kernel = carried
        q = attn.norm_q(attn.to_q(x)).unflatten(2, (attn.heads, -1))
        attended = reduce(torch.add, [kernel(q, k, v) for k, v in sources])
        return cast(Tensor, attn.to_out[0](attended.flatten(2)))
