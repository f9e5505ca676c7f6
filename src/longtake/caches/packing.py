"""Packing of kept keys and values: one byte per number, and one exponent per token and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Self, TypeAlias

import torch
from torch import Tensor

KeptFormat: TypeAlias = Literal["model", "fp8", "int8"]
"""How kept keys and values are held: in the model's dtype, or in one byte per number."""
_BYTES: Final = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}


@dataclass(frozen=True, slots=True)
class Packed:
    """Numbers of one byte each, with a power of two per token and head.

    Packing what was unpacked gives the same numbers: a run that goes on from a snapshot, which
    holds them unpacked, is bit-equal to one that was never interrupted.

    Args:
        numbers: ``(B, S, N, D)`` int8 or float8.
        exponents: ``(B, S, N, 1)`` int16: the numbers count in these powers of two.
        dtype: Of what was packed.
    """

    numbers: Tensor
    exponents: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, x_BSND: Tensor, kept: Literal["fp8", "int8"]) -> Self:
        """Pack keys or values; each is rounded once.

        Args:
            x_BSND: ``(B, S, N, D)``, finite.
            kept: The format.
        """
        dtype = _BYTES[kept]
        largest = torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max
        x = x_BSND.float()
        # The smallest power of two in which the largest number fits.
        mantissa, exponent = torch.frexp(x.abs().amax(-1, keepdim=True) / largest)
        exponent = torch.where(mantissa > 0.5, exponent, exponent - 1)
        scaled = torch.ldexp(x, -exponent)
        numbers = scaled if dtype.is_floating_point else scaled.round()
        return cls(numbers.to(dtype), exponent.to(torch.int16), x_BSND.dtype)

    def unpack(self) -> Tensor:
        """Return ``(B, S, N, D)`` in the dtype of what was packed."""
        return torch.ldexp(self.numbers.float(), self.exponents.int()).to(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return self.numbers.nbytes + self.exponents.nbytes


def kept_bytes(kept: KeptFormat, item_bytes: int, head_dim: int) -> float:
    """Return the bytes that a number of kept keys and values takes.

    Args:
        kept: The format.
        item_bytes: Of a number of the model's dtype.
        head_dim: Numbers that share an exponent.
    """
    return item_bytes if kept == "model" else 1 + torch.int16.itemsize / head_dim
