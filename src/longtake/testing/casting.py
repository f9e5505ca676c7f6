"""Casts of weights, for tests of other dtypes than those that a model was made in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from longtake.models import Backbone

HolderT = TypeVar("HolderT")


def cast_weights(holder: HolderT, dtype: torch.dtype) -> HolderT:
    """Cast the weights of every module that an object holds, as loading in that dtype would.

    Args:
        holder: A backbone, say: its attributes are looked through, lists and mappings too.
        dtype: But for what diffusers' classes name in ``_keep_in_fp32_modules``.

    Returns:
        The object.
    """
    for module in _modules(vars(holder)):
        kept = set(getattr(module, "_keep_in_fp32_modules", None) or ())
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point() and kept.isdisjoint(name.split(".")):
                tensor.data = tensor.data.to(dtype)
    return holder


def _modules(value: object) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, Backbone):  # one around another
        yield from _modules(vars(value))
    elif isinstance(value, Mapping):
        yield from _modules(list(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for one in value:
            yield from _modules(one)
