"""Attention of Kandinsky 5's layers: what each call needs comes in with it."""

from __future__ import annotations

from typing import Any, cast, final

from torch import Tensor
from torch.nn.functional import rms_norm

from longtake.models.base import Attend, Kernel, Rotary
from longtake.models.layers.kernel import attention_kernel
from longtake.models.layers.rotary import rotate


@final
class SelfAttention:
    """Processor of a video layer's self-attention.

    diffusers rounds rotated queries and keys to bfloat16 whatever the weights are; here they stay
    in the weights' dtype.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        rotary_emb: tuple[Rotary, Attend] | None = None,
        sparse_params: None = None,
    ) -> Tensor:
        """Attend by what the framework has handed in beside the rotary table."""
        assert rotary_emb is not None
        rotary, attend = rotary_emb
        out = attend(
            lambda: rotate(_normed(attn.query_norm, _query(attn, hidden_states)), rotary),
            lambda: rotate(_normed(attn.key_norm, _key(attn, hidden_states)), rotary),
            lambda: _value(attn, hidden_states),
        )
        return cast(Tensor, attn.out_layer(out.flatten(2)))


@final
class CrossAttention:
    """Processor of a video layer's attention to the text; the kernel comes with the states."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor, Kernel] | None = None,
        rotary_emb: None = None,
        sparse_params: None = None,
    ) -> Tensor:
        """Attend to the text of each branch, without its padding."""
        assert encoder_hidden_states is not None
        states, kernel = encoder_hidden_states
        q = _normed(attn.query_norm, _query(attn, hidden_states))
        k = _normed(attn.key_norm, _key(attn, states))
        out = kernel(q, k, _value(attn, states))
        return cast(Tensor, attn.out_layer(out.flatten(2)))


@final
class TextAttention:
    """Processor of a text layer's self-attention."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        rotary_emb: Rotary | None = None,
        sparse_params: None = None,
    ) -> Tensor:
        """Attend among the tokens of one prompt."""
        assert rotary_emb is not None
        q = rotate(_normed(attn.query_norm, _query(attn, hidden_states)), rotary_emb)
        k = rotate(_normed(attn.key_norm, _key(attn, hidden_states)), rotary_emb)
        out = attention_kernel(q, k, _value(attn, hidden_states))
        return cast(Tensor, attn.out_layer(out.flatten(2)))


def _query(attn: Any, states: Tensor) -> Tensor:
    return cast(Tensor, attn.to_query(states).unflatten(2, (attn.num_heads, -1)))


def _key(attn: Any, states: Tensor) -> Tensor:
    return cast(Tensor, attn.to_key(states).unflatten(2, (attn.num_heads, -1)))


def _value(attn: Any, states: Tensor) -> Tensor:
    return cast(Tensor, attn.to_value(states).unflatten(2, (attn.num_heads, -1)))


def _normed(norm: Any, states: Tensor) -> Tensor:
    weight = norm.weight.float()
    return rms_norm(states.float(), norm.normalized_shape, weight, norm.eps).type_as(states)
