"""Step noise: the fresh noise of a stochastic sampler's steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

from torch import Tensor
from typing_extensions import override

from longtake.noise.base import NoiseSource


class StepNoise(ABC):
    """Gives every sampler step its noise.

    Never a function of rank, device or the order in which blocks are stepped.
    """

    @abstractmethod
    def draw(self, block: int, version: int, frames: int) -> Tensor:
        """Return the noise of one step, ``(1, C, frames, H, W)`` fp32 on the CPU.

        Args:
            block: Index of the block; negative for a warm-up block.
            version: Steps that the block has behind it; -1 for the noise that a warm-up block
                starts from.
            frames: Its latent frames.
        """

    @abstractmethod
    def mixed(self, index: int, first: int, frames: int) -> Tensor:
        """Return the noise that a task mixes into finished frames that it sees.

        Args:
            index: Of the task.
            first: The first of the frames.
            frames: How many they are.

        Returns:
            ``(1, C, frames, H, W)`` fp32 on the CPU.
        """


@final
class DrawnStepNoise(StepNoise):
    """Standard normal noise, a function of (seed, block, version).

    Args:
        source: Where random numbers come from.
    """

    def __init__(self, source: NoiseSource) -> None:
        self._source = source

    @override
    def draw(self, block: int, version: int, frames: int) -> Tensor:
        return self._source.normal(frames, "step", block, version)

    @override
    def mixed(self, index: int, first: int, frames: int) -> Tensor:
        return self._source.normal(frames, "mixed", index, first)
