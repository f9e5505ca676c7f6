"""LoRA arithmetic: what low-rank products, differences and DoRA add to a weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Change(ABC):
    """What a LoRA changes about one tensor.

    Args:
        scale: The user's strength.
    """

    scale: float

    @abstractmethod
    def added_to(self, weight: Tensor) -> Tensor:
        """Return what is added to ``weight`` (fp32, as it is stored) at strength 1."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Change):
    """A whole difference: of a norm, a bias, an embedding, a table.

    Args:
        values: As many as the tensor has.
        factor: Of the file's own.
    """

    values: Tensor
    factor: float = 1.0

    @override
    def added_to(self, weight: Tensor) -> Tensor:
        return self.factor * self.values.to(weight.device).float().reshape(weight.shape)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank(Change):
    """The product of two thin matrices; with a magnitude, what DoRA makes of it.

    Args:
        up: ``B (out, r)``, with a kernel's dims of size 1 where the module is a convolution.
        down: ``A (r, in)``, likewise.
        factor: The file's own: ``alpha / r``.
        magnitude: Norm of each of the ``out`` rows of the changed weight.
    """

    up: Tensor
    down: Tensor
    factor: float
    magnitude: Tensor | None = None

    @override
    def added_to(self, weight: Tensor) -> Tensor:
        up, down = (part.to(weight.device).float().flatten(1) for part in (self.up, self.down))
        added = (self.factor * (up @ down)).view(weight.shape)
        if self.magnitude is None:
            return added
        changed = (weight + added).flatten(1)
        norms = torch.linalg.vector_norm(changed, dim=1, keepdim=True)
        magnitude = self.magnitude.to(weight.device).float().reshape(norms.shape)
        scaled: Tensor = changed * (magnitude / norms)
        return scaled.view(weight.shape) - weight


def merged(key: str, weight: Tensor, changes: Iterable[Change]) -> Tensor:
    """Return a weight with all changes added, in fp32.

    Each is of the weight as it is stored: their order does not matter.

    Args:
        key: What the tensor is called.
        weight: As it is stored.
        changes: Of it.

    Raises:
        ModelError: The sum is not finite.
    """
    stored = weight.float()
    total = stored
    for change in changes:
        total = total + change.scale * change.added_to(stored)
    if not bool(torch.isfinite(total).all()):
        raise ModelError(
            f"with the LoRAs of model.lora the tensor {key} is no longer finite; choose smaller "
            f"scales."
        )
    return total
