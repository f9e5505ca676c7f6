"""Noise initialization contract, and the one place where random numbers come from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from longtake.task import FrameRange

_STREAM: Final = 0
"""Where a request's index once stood: a run's first video keeps its noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSource:
    """Where the random numbers of one request come from: always the CPU, never a rank.

    They do not depend on which request of a run it is: a line of a batch can be made again alone,
    and two prompts can be compared on one noise.

    Args:
        seed: The request's seed.
        channels: Latent channels ``C``.
        height: Latent height ``H``.
        width: Latent width ``W``.
        after: Video frames that were there before, of a video that grows: its new part has noise
            of its own.
    """

    seed: int
    channels: int
    height: int
    width: int
    after: int = 0

    def generator(self, purpose: str, *index: int) -> torch.Generator:
        """Return a CPU generator that is a function of (seed, purpose, index) alone."""
        part = (f"after {self.after}",) if self.after else ()
        words = "/".join(map(str, (self.seed, _STREAM, *part, purpose, *index))).encode()
        digest = hashlib.blake2b(words, digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)

    def normal(self, frames: int, purpose: str, *index: int) -> Tensor:
        """Draw standard normal latents ``(1, C, frames, H, W)``, fp32 on the CPU."""
        shape = (1, self.channels, frames, self.height, self.width)
        return torch.randn(shape, generator=self.generator(purpose, *index))


class NoiseInit(ABC):
    """Gives every block its starting noise.

    A function of (seed, block) and of how the video is cut: never of rank, device or
    the number of devices.
    """

    @abstractmethod
    def blocks(self, source: NoiseSource, cut: Iterable[FrameRange]) -> Iterator[Tensor]:
        """Yield the noise of block 0, 1, 2, ... lazily, each ``(1, C, F, H, W)`` fp32 on the CPU.

        Args:
            source: Where random numbers come from.
            cut: The blocks' latent frames in the order of time; endless for an endless video.

        Raises:
            ConfigurationError: The initialization cannot serve blocks of these lengths.
        """
