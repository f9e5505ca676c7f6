"""Video frames that encoders take: a tensor, or a file that is read as they go through it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class VideoFrames(Protocol):
    """Frames of a video, ``(F, height, width, 3)`` uint8 RGB once they are sliced.

    Slice them from the front to the back, a few at a time: what a slice leaves behind need not be
    in memory any more. A tensor is one of these.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, places: slice, /) -> Tensor: ...
