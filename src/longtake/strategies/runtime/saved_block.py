"""Saved block: a block in flight as named tensors and facts, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from longtake.models.samplers.base import SamplerState
from longtake.task import FrameRange


@dataclass(frozen=True, slots=True)
class SavedBlock:
    """A block between two of its steps, its sampler left out.

    Args:
        number: Index of the block.
        frames: Its latent frames.
        drawn: The number of its noise among those of the noise source; ``None``: not from there.
        latents: ``(1, C, F, H, W)`` fp32.
        predicted: Weighted sum of the predictions of the step's windows so far, if any.
        weight: Of each frame in it.
    """

    number: int
    frames: FrameRange
    drawn: int | None
    latents: Tensor
    predicted: Tensor | None = None
    weight: Tensor | None = None

    def state(self, sampler: SamplerState, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Return the block as facts, its tensors added to ``tensors``.

        Args:
            sampler: What its sampler has to remember.
            tensors: By name.
        """
        at = f"blocks/{self.number}"
        tensors[f"{at}/latents"] = self.latents
        if self.predicted is not None and self.weight is not None:
            tensors[f"{at}/predicted"] = self.predicted.clone()  # added to in place
            tensors[f"{at}/weight"] = self.weight.clone()
        for name, tensor in sampler.tensors.items():
            tensors[f"{at}/sampler/{name}"] = tensor
        home = self.latents.device
        return {
            "block": self.number,
            "frames": [self.frames.start, self.frames.stop],
            "drawn": self.drawn,
            "numbers": dict(sampler.numbers),
            "tensors": {name: one.device == home for name, one in sampler.tensors.items()},
        }

    @classmethod
    def read(
        cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device
    ) -> tuple[Self, SamplerState]:
        """Return a block that was saved, and what its sampler has to remember.

        Args:
            facts: From ``state``.
            tensors: By name.
            device: Where the block goes on; what its sampler had on the host stays there.
        """
        at = f"blocks/{facts['block']}"
        fused = f"{at}/predicted" in tensors
        block = cls(
            facts["block"],
            FrameRange(*facts["frames"]),
            facts["drawn"],
            tensors[f"{at}/latents"].to(device),
            tensors[f"{at}/predicted"].to(device) if fused else None,
            tensors[f"{at}/weight"].to(device) if fused else None,
        )
        remembered = {
            name: tensors[f"{at}/sampler/{name}"].to(device if on_device else "cpu")
            for name, on_device in facts["tensors"].items()
        }
        return block, SamplerState(tensors=remembered, numbers=facts["numbers"])
