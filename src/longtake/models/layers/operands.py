"""Operands of self-attention, checked before a kernel sees them: shapes and dtypes, by layer.

A kernel takes ``(B, N, S, D)`` for ``(B, S, N, D)`` without a word, or fails in its own ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from longtake.errors import ModelError
from longtake.models.base import Attend, Operand
from longtake.models.layers.kernel import made


def checked(attend: Attend, where: str, wanted: Sequence[int]) -> Attend:
    """Return an ``attend`` that refuses what is not queries, keys and values.

    Args:
        attend: What to call with them.
        where: Which layer of which model, for the message.
        wanted: ``(B, S, N, D)`` as it should be.
    """

    def told(q: Operand, k: Operand, v: Operand) -> Tensor:
        dtypes: dict[str, torch.dtype] = {}

        def check(name: str, operand: Operand) -> Tensor:
            tensor = made(operand)
            check_operand(where, name, tensor, wanted)
            dtypes[name] = tensor.dtype
            if len(set(dtypes.values())) > 1:
                raise ModelError(
                    f"{where} gives attend {_listed(dtypes)}; they are all of one dtype: a cast "
                    f"is missing."
                )
            return tensor

        # One that is made when its turn comes is looked at then.
        queries, keys, values = (
            check(name, one) if isinstance(one, Tensor) else partial(check, name, one)
            for name, one in (("queries", q), ("keys", k), ("values", v))
        )
        return attend(queries, keys, values)

    return told


def check_operand(where: str, name: str, operand: Tensor, wanted: Sequence[int]) -> None:
    """Refuse queries, keys or values that are not of the shape which ``attend`` takes.

    Args:
        where: Which layer of which model, for the message.
        name: Of the operand.
        operand: It.
        wanted: ``(B, S, N, D)`` as it should be.

    Raises:
        ModelError: Names the layer, the operand, both shapes, and the likely mistake.
    """
    if tuple(operand.shape) != tuple(wanted):
        raise ModelError(
            f"{where} gives attend {name} of shape {tuple(operand.shape)}, but they are "
            f"(B, S, N, D) = {tuple(wanted)}{_likely(tuple(operand.shape), tuple(wanted))}."
        )


def check_hidden(where: str, hidden: Tensor, before: Tensor) -> None:
    """Refuse hidden states that a layer has changed in shape or dtype.

    Raises:
        ModelError: Names the layer and both.
    """
    if hidden.shape != before.shape:
        raise ModelError(
            f"{where} changes the shape of the hidden states from {tuple(before.shape)} to "
            f"{tuple(hidden.shape)}; they stay (B, S, M) from layer to layer."
        )
    if hidden.dtype != before.dtype:
        raise ModelError(
            f"{where} returns hidden states in {dtype_name(hidden.dtype)} that came in "
            f"{dtype_name(before.dtype)}: a cast is missing."
        )


def _likely(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    rows, tokens, heads, width = wanted
    if shape == (rows, heads, tokens, width):
        return ": tokens and heads are swapped, so transpose dims 1 and 2"
    if shape == (rows, tokens, heads * width):
        return ": unflatten the last dim into heads"
    if shape == (rows * heads, tokens, width):
        return ": heads are a dim of their own, not rows of the batch"
    if len(shape) == 4 and shape[0] == rows and shape[2:] == (heads, width):
        return f": {shape[1]} of {tokens} tokens; attend takes all that the layer was given"
    if len(shape) == 4 and shape[:2] == (rows, tokens) and shape[2] * shape[3] == heads * width:
        return ": heads and their width are not those of the spec"
    return ""


def _listed(dtypes: Mapping[str, torch.dtype]) -> str:
    return ", ".join(f"{name} in {dtype_name(dtype)}" for name, dtype in dtypes.items())


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype as options write it: ``bfloat16``."""
    return str(dtype).removeprefix("torch.")
