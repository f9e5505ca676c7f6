"""Self-attention of video and text tokens together, as processors of diffusers' attention modules.

diffusers hands a layer's rotary table through to its attention untouched, so it carries the table
and the ``attend`` of this very call (``Carried``): no state is kept between calls.
"""

from __future__ import annotations

from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from longtake.models.base import Attend, Rotary
from longtake.models.layers.rotary import rotate

Carried: TypeAlias = tuple[Rotary | None, Attend]
"""What travels in the place of a layer's rotary table: that table, if any, and ``attend``."""


@final
class TwoStreamAttention:
    """Processor of an attention with weights of its own for text: projects each, attends jointly.

    Queries and keys are normed per head. Text tokens come last; the table covers them too.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None,
        image_rotary_emb: Carried,
    ) -> tuple[Tensor, Tensor]:
        """Return what the attention adds to video and to text tokens, each ``(B, S, M)``."""
        (rotary, attend), heads = image_rotary_emb, (attn.heads, -1)
        video, text = hidden_states, encoder_hidden_states

        def queries() -> Tensor:
            q = attn.norm_q(attn.to_q(video).unflatten(2, heads))
            text_q = attn.norm_added_q(attn.add_q_proj(text).unflatten(2, heads))
            return _rotated(torch.cat((q, text_q), dim=1), rotary)

        def keys() -> Tensor:
            k = attn.norm_k(attn.to_k(video).unflatten(2, heads))
            text_k = attn.norm_added_k(attn.add_k_proj(text).unflatten(2, heads))
            return _rotated(torch.cat((k, text_k), dim=1), rotary)

        def values() -> Tensor:
            v = attn.to_v(video).unflatten(2, heads)
            return torch.cat((v, attn.add_v_proj(text).unflatten(2, heads)), dim=1)

        out = attend(queries, keys, values).flatten(2)
        to_video, to_text = split_text(out, text.shape[1])
        # A last layer may have no use for its text any more.
        if not attn.context_pre_only:
            to_text = attn.to_add_out(to_text)
        return attn.to_out[0](to_video), to_text


@final
class OneStreamAttention:
    """Processor of an attention whose weights video and text share.

    Queries and keys are normed per head. Text tokens come last; the table covers them too.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None,
        image_rotary_emb: Carried,
    ) -> tuple[Tensor, Tensor]:
        """Return what the attention adds to video and to text tokens, each ``(B, S, M)``."""
        (rotary, attend), heads = image_rotary_emb, (attn.heads, -1)
        x = torch.cat((hidden_states, encoder_hidden_states), dim=1)
        out = attend(
            lambda: _rotated(attn.norm_q(attn.to_q(x).unflatten(2, heads)), rotary),
            lambda: _rotated(attn.norm_k(attn.to_k(x).unflatten(2, heads)), rotary),
            lambda: attn.to_v(x).unflatten(2, heads),
        ).flatten(2)
        if not attn.pre_only:  # else the layer projects it itself
            out = attn.to_out[0](out)
        return split_text(out, encoder_hidden_states.shape[1])


def split_text(hidden: Tensor, text_tokens: int) -> tuple[Tensor, Tensor]:
    """Return the video tokens and the text tokens of ``(B, S + L, M)``.

    Args:
        hidden: Text tokens come last.
        text_tokens: How many there are here, ``context.text_tokens``; on a rank that has some of
            the tokens only, it may be none of them.
    """
    count = hidden.shape[1] - text_tokens
    return hidden[:, :count], hidden[:, count:]


def count_padding(mask: Tensor) -> tuple[int, ...]:
    """Return how many tokens of each prompt are padding, for ``Backbone.text_padding``.

    Args:
        mask: Which tokens are text, ``(B, L)``; the others come last in the hidden states.
    """
    return tuple((mask.shape[1] - mask.sum(dim=1)).tolist())


def _rotated(x_BSND: Tensor, rotary: Rotary | None) -> Tensor:
    return x_BSND if rotary is None else rotate(x_BSND, rotary)
