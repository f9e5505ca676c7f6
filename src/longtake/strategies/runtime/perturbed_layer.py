"""Perturbed layer: one layer for all guidance branches, some of which it treats unlike the rest.

All rows go through the layer, so that what it keeps and exchanges has the shapes of any other; then
those that are to leave it, or its attention, out get what they had before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longtake.guidance import Branch
from longtake.models import AnyBackbone, Attend, LayerContext, Operand
from longtake.models.layers.kernel import made


def run_layer(
    backbone: AnyBackbone,
    index: int,
    hidden: Tensor,
    context: LayerContext[Any, Any],
    attend: Attend,
    branches: Sequence[Branch],
) -> Tensor:
    """Return hidden states ``(B, S, M)`` after a layer.

    Args:
        backbone: That holds the layer.
        index: Of the layer in the whole model.
        hidden: The hidden states, a row per branch.
        context: What every layer of this forward shares.
        attend: The layer's self-attention.
        branches: Of the rows.
    """
    alone = [index in branch.unattended for branch in branches]
    skipped = [index in branch.skipped for branch in branches]
    if any(alone):
        attend = _with_values(attend, alone)
    after = backbone.layer(index, hidden, context, attend)
    return _rows(skipped, hidden, after) if any(skipped) else after


def _with_values(attend: Attend, rows: Sequence[bool]) -> Attend:
    """Return self-attention that gives some rows their own values as they are."""

    def attended(q: Operand, k: Operand, v: Operand) -> Tensor:
        values = made(v)
        return _rows(rows, values, attend(q, k, values))

    return attended


def _rows(chosen: Sequence[bool], before: Tensor, after: Tensor) -> Tensor:
    mask = torch.tensor(chosen, device=after.device)
    return torch.where(mask.reshape(-1, *[1] * (after.ndim - 1)), before.to(after.dtype), after)
