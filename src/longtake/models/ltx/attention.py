"""Attention of LTX-Video's layers, with norms over all heads together."""

from __future__ import annotations

from typing import Any, TypeAlias, cast, final

from torch import Tensor

from longtake.models.base import Attend, Kernel, Rotary
from longtake.models.layers.rotary import rotate

KeyValue: TypeAlias = tuple[Tensor, Tensor]
"""Keys and values of one cross-attention, each ``(B, L, N, D)``."""


@final
class SelfAttention:
    """Processor of a layer's self-attention; the layer's state comes in with the call.

    diffusers hands a layer's rotary table through untouched, so it carries the table, the
    ``attend`` of this very call and its guidance branches: no state is kept between calls. Tokens
    come in pieces of one noise level, which are rows of the batch dim (``longtake.models.layers
    .levels``), and attend as one.
    """

    def __call__(
        self, attn: Any, x: Tensor, _text: None, _mask: None, carried: tuple[Rotary, Attend, int]
    ) -> Tensor:
        """Return what the attention adds to the tokens of pieces, ``(B P, U, M)``."""
        (rotary, attend, branches), heads, size = carried, (attn.heads, -1), x.shape
        x = x.reshape(branches, -1, size[2])
        out = attend(
            lambda: rotate(attn.norm_q(attn.to_q(x)).unflatten(2, heads), rotary),
            lambda: rotate(attn.norm_k(attn.to_k(x)).unflatten(2, heads), rotary),
            lambda: attn.to_v(x).unflatten(2, heads),
        )
        return cast(Tensor, attn.to_out[0](out.flatten(2))).reshape(size)


@final
class CrossAttention:
    """Processor of a layer's cross-attention on keys and values that were computed once."""

    def __call__(
        self, attn: Any, x: Tensor, carried: tuple[KeyValue, Kernel], _mask: None, _rotary: None
    ) -> Tensor:
        """Return what the attention adds to the tokens of pieces, ``(B P, U, M)``."""
        ((k, v), kernel), size = carried, x.shape
        x = x.reshape(len(k), -1, size[2])
        q = attn.norm_q(attn.to_q(x)).unflatten(2, (attn.heads, -1))
        return cast(Tensor, attn.to_out[0](kernel(q, k, v).flatten(2))).reshape(size)


def project(attn: Any, text: Tensor) -> KeyValue:
    """Return keys and values of a cross-attention to ``text``, ``(B, L, M)``."""
    k, v = attn.norm_k(attn.to_k(text)), attn.to_v(text)
    return k.unflatten(2, (attn.heads, -1)), v.unflatten(2, (attn.heads, -1))
