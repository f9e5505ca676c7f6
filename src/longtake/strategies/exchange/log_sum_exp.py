"""Log-sum-exp attention: a kernel that returns it, and the merge of two partial results."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

LseKernel: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Attends, and returns the log-sum-exp of its scores beside."""


def attention_with_lse(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attend, and return how much weight the keys have in all.

    Args:
        q: Queries ``(B, S, N, D)``, any number.
        k: Keys ``(B, S', N, D)``, at least one.
        v: Values ``(B, S', N, D)``.

    Returns:
        The result ``(B, S, N, D)``, and the log-sum-exp of the scaled scores ``(B, S, N, 1)`` in
        fp32, or float64 for operands in float64.
    """
    if not q.shape[1]:  # torch's kernel divides by the number of queries
        return q, _wide(q.new_empty((*q.shape[:3], 1)))
    q_BNSD, k_BNSD, v_BNSD = (tensor.transpose(1, 2) for tensor in (q, k, v))
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q_BNSD, k_BNSD, v_BNSD
        )
    else:
        out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            q_BNSD, k_BNSD, v_BNSD, None, compute_log_sumexp=True
        )
        lse = lse[..., : q.shape[1]]  # the kernel rounds its length up
    return out.transpose(1, 2), _wide(lse).transpose(1, 2)[..., None]


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Join the results of attention to two sets of keys, as if it had been one.

    Args:
        out: Result for the first set, ``(B, S, N, D)``.
        lse: Its log-sum-exp ``(B, S, N, 1)``.
        other: Result for the second set.
        other_lse: Its log-sum-exp.

    Returns:
        Result and log-sum-exp for both, in fp32 or float64.
    """
    joined = torch.logaddexp(lse, other_lse)
    out = _wide(out) * (lse - joined).exp() + _wide(other) * (other_lse - joined).exp()
    return out, joined


def _wide(tensor: Tensor) -> Tensor:
    """Cast to fp32 what is narrower."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
