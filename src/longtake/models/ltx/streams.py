"""Streams of frames through layers that look ahead, as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

Stream: TypeAlias = Iterator[Tensor | None]
"""Frames ``(1, C, F, H, W)`` after frames; ``None``: others have to come before there are more."""


def each(change: Callable[[Tensor], Tensor], stream: Stream) -> Stream:
    """Change every frame on its own."""
    for frames in stream:
        yield None if frames is None else change(frames)


def skip(count: int, stream: Stream) -> Stream:
    """Leave out the first frames of a video; ``count`` is less than what comes at once."""
    for frames in stream:
        yield None if frames is None else frames[:, :, count:]
        count = 0 if frames is not None else count


def double_first(count: int, stream: Stream) -> Stream:
    """Repeat the first frame of a video ``count`` times in front of it."""
    for frames in stream:
        if frames is None or count == 0:
            yield frames
            continue
        yield torch.cat((frames[:, :, :1].expand(-1, -1, count, -1, -1), frames), dim=2)
        count = 0


def convolve(padded: Any, stream: Stream) -> Stream:
    """Convolve frames as soon as those have come that the convolution looks ahead to.

    The video's first and last frame are repeated where there are none before and after.

    Args:
        padded: diffusers' convolution, which repeats the ends of whatever it is given.
        stream: What to convolve.
    """
    span = padded.kernel_size[0] - 1
    ahead = 0 if padded.is_causal else span // 2
    held: Tensor | None = None
    for frames in stream:
        if frames is None:
            yield None
            continue
        if held is None:
            held = frames[:, :, :1].expand(-1, -1, span - ahead, -1, -1)
        held = torch.cat((held, frames), dim=2)
        if held.shape[2] > span:
            convolved = padded.conv(held)
            yield convolved
            behind = convolved.shape[2] * padded.conv.stride[0]
            held = held[:, :, behind:].clone()  # a view would keep the others
    if ahead and held is not None:
        yield padded.conv(torch.cat((held, held[:, :, -1:].expand(-1, -1, ahead, -1, -1)), dim=2))


def join(
    branch: Callable[[Stream], Stream], combine: Callable[[Tensor, Tensor], Tensor], stream: Stream
) -> Stream:
    """Combine what comes out of a branch with the frames that it was made of.

    Args:
        branch: As many frames come out of it as go in, later.
        combine: Takes the branch's frames and those of the stream.
        stream: What goes in.
    """
    waiting: list[Tensor] = []

    def noted() -> Stream:
        for frames in stream:
            if frames is not None:
                waiting.append(frames)
            yield frames

    for frames in branch(noted()):
        if frames is None:
            yield None
            continue
        inputs, count = torch.cat(waiting, dim=2), frames.shape[2]
        waiting[:] = [inputs[:, :, count:].clone()]
        yield combine(frames, inputs[:, :, :count])
