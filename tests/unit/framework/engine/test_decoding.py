"""Decoding of a video: pictures that are no numbers end the run instead of turning black."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from longtake.comm.device_queue import HostCopies
from longtake.errors import NumbersError
from longtake.framework.engine.decoding import DecodedVideo
from longtake.framework.engine.events import FramesDecoded
from longtake.framework.engine.timings import Timings
from longtake.models import VideoDecoder
from longtake.plan.ir.actions import Decode, Finish


class RepeatingDecoder(VideoDecoder[None]):
    """Makes a frame of each latent frame, as bright as that, and one more at the end."""

    def __init__(self, last: float = 0.0) -> None:
        self._last = last

    @override
    def start(self) -> None:
        return None

    @override
    def decode(self, state: None, latents: Tensor) -> Iterator[Tensor]:
        for frame in latents.unbind(dim=2):
            yield frame.expand(1, 3, 8, 8).clone()

    @override
    def finish(self, state: None) -> Iterator[Tensor]:
        yield torch.full((1, 3, 8, 8), self._last)


def video(last: float = 0.0) -> DecodedVideo:
    copies = HostCopies(torch.device("cpu"))
    return DecodedVideo(RepeatingDecoder(last), Timings(), None, copies)


def pixels(made: DecodedVideo, action: Decode | Finish) -> list[int]:
    frames = [done for done in made.do(action) if isinstance(done, FramesDecoded)]
    return [int(frame.frames[0, 0, 0, 0]) for frame in frames]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_picture_that_is_no_number_is_refused(bad: float) -> None:
    made = video()
    latents = torch.tensor([-1.0, 1.0, bad]).view(1, 1, 3, 1, 1)
    made.take(4, latents)
    decode = Decode(index=0, block=4, step=0, frames=2)
    assert pixels(made, decode) == [0, 255]
    with pytest.raises(NumbersError, match=r"not finite \(NaN or infinite\) of block 4"):
        pixels(made, Decode(index=0, block=4, step=0, frames=1, first=2))


def test_what_the_vae_held_back_is_looked_at_too() -> None:
    with pytest.raises(NumbersError, match="of block 7"):
        pixels(video(last=math.nan), Finish(index=0, block=7, step=0))
    assert pixels(video(last=1.0), Finish(index=0, block=7, step=0)) == [255]
