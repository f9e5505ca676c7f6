"""Stored tensors: where in safetensors files a tensor of a model is, and how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

FLOATS: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
FLOAT8: Final = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
WHOLE: Final = {"I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool}
"""Dtypes of a few buffers (positions); numbers of weights are never whole."""

Rows: TypeAlias = tuple[int, int]
"""The first of some rows (of dim 0), and the one behind the last."""


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What is known of a tensor before it is read.

    Args:
        file: That holds it.
        shape: Of the tensor.
        dtype: Of the numbers in the file, as safetensors calls it: ``BF16``, say.
        key: Of the file's tensor that it is, or is a part of.
        rows: Which rows of that one it is made of, in this order; none: it is the whole tensor.
        scale: Key of what the file's numbers are to be multiplied by: one number, or one per row.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    key: str
    rows: tuple[Rows, ...] = ()
    scale: str | None = None

    def blank(self) -> Tensor:
        """Return a tensor without values, on the meta device."""
        return torch.empty(self.shape, dtype=(FLOATS | WHOLE)[self.dtype], device="meta")

    def read(self, reader: Any) -> Tensor:
        """Return the tensor: of the file's no more than its own rows, float8 as float32.

        Args:
            reader: Of the file (``safe_open``).
        """
        tensor = self._numbers(reader)
        if self.dtype in FLOAT8:  # torch does little with these, and every one is a float32
            tensor = tensor.float()
        if self.scale is None:
            return tensor
        scale: Tensor = reader.get_tensor(self.scale).float().flatten()
        if self.rows and len(scale) > 1:
            scale = take(scale, self.rows)
        return tensor.mul_(scale.reshape(-1, *(1,) * (tensor.dim() - 1)))

    def _numbers(self, reader: Any) -> Tensor:
        if not self.rows:
            return reader.get_tensor(self.key)  # type: ignore[no-any-return]
        return take(reader.get_slice(self.key), self.rows)


def take(tensor: Any, rows: Sequence[Rows]) -> Tensor:
    """Return some rows of a tensor, one after another; copied only where they are in pieces.

    Args:
        tensor: Or a slice of a file, which reads what is asked for.
        rows: At least one piece.
    """
    parts = [tensor[start:stop] for start, stop in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
