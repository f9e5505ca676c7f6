"""Video frames that encoders take: a tensor, or a file that is read as they go through it."""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor

from longtake.models.loading.folder import ModelFolder


class VideoFrames(Protocol):
    """Frames of a video, ``(F, height, width, 3)`` uint8 RGB once they are sliced.

    Slice them from the front to the back, a few at a time: what a slice leaves behind need not be
    in memory any more. A tensor is one of these.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, places: slice, /) -> Tensor: ...


class VideoEncoder(Protocol):
    """A VAE's encoder, which is read from a pipeline folder by itself."""

    @classmethod
    def load(cls, folder: ModelFolder, device: torch.device) -> Self:
        """Load it alone.

        Raises:
            ModelError: The folder's VAE has none.
        """

    def encode(self, frames: VideoFrames) -> Tensor:
        """Return latents ``(1, C, F', H, W)`` on the CPU, as a sampler leaves finished frames."""
