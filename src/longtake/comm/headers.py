"""Headers: the dtype and shape of a tensor that is about to come."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_SIZE: Final = 16
_DTYPES: Final = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
"""What can be sent; a header names a dtype by its place here."""


def header_of(tensor: Tensor | None) -> Tensor:
    """Return a tensor's header, or the one that says that there is none; always of one size."""
    header = torch.full((_SIZE,), -1, dtype=torch.int64)
    if tensor is not None:
        sizes = [_DTYPES.index(tensor.dtype), tensor.dim(), *tensor.shape]
        header[: len(sizes)] = torch.tensor(sizes)
    return header


def of_header(header: Tensor) -> Tensor | None:
    """Return an empty tensor on the CPU as a header says; ``None`` where there is none."""
    dtype, dims, *shape = header.tolist()
    return None if dtype < 0 else torch.empty(shape[:dims], dtype=_DTYPES[dtype])
