"""Noise level embeddings of the HunyuanVideo transformers, made once per step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class HunyuanVideoStep:
    """One noise level.

    Args:
        timestep: For the text's refiner, ``(1,)``.
        embedding: Of the timestep and, where the model is told one, of the guidance scale;
            ``(1, M)``.
        given: The embedding of given frames, which are at timestep 0, and how many tokens are
            theirs: the first ones; ``None`` where all tokens are at one level.
    """

    timestep: Tensor
    embedding: Tensor
    given: tuple[Tensor, int] | None = None
