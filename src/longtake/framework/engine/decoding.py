"""Finished blocks to video frames: on this rank between tasks, or on a decode rank meanwhile."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.comm.mailboxes import Inbox, Outbox
from longtake.framework.engine.events import FramesDecoded
from longtake.framework.engine.timings import Timings
from longtake.models import AnyDecoder
from longtake.plan.ir.actions import Decode
from longtake.strategies import ActionDone

Decoded: TypeAlias = ActionDone | FramesDecoded
"""Frames, and before them what this rank did for them."""
DECODED: Final = 1
"""What a decode rank sends, as a whole number, when it is through with a block."""
_LOOK: Final = 0.02
"""Seconds for which a rank with nothing else to do waits for frames at a time."""


class Decoding(ABC):
    """One video's frames, in the order of time. Where they are decoded cannot be seen in them."""

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether ``take`` would not wait."""

    @abstractmethod
    def take(self, latents: Tensor) -> Iterator[Decoded]:
        """Take the next block's latents ``(1, C, F, H, W)``; yield frames of those before it."""

    @abstractmethod
    def end(self) -> None:
        """Say that there are no more blocks."""

    @abstractmethod
    def some(self, *, patient: bool = False) -> Iterator[Decoded]:
        """Yield what is decoded already, or a little of what is to be decoded here.

        Args:
            patient: Whether to wait a moment for what is decoded elsewhere.
        """

    @property
    @abstractmethod
    def is_done(self) -> bool:
        """Whether every frame has been yielded."""


@final
class OwnDecoding(Decoding):
    """Decodes on this rank, when it is asked to.

    Where other ranks wait for the one that decodes, decoding a latent frame after each task lets
    them go on.

    Args:
        decoder: The VAE's decoder.
        timings: Gets the seconds of part ``decode``.
        at_once: Whether a block is decoded in one go: nobody waits.
        latent_frames: Of the whole video; ``None`` for an endless one.
    """

    def __init__(
        self, decoder: AnyDecoder, timings: Timings, *, at_once: bool, latent_frames: int | None
    ) -> None:
        self._decoder = decoder
        self._timings = timings
        self._at_once = at_once
        self._state = decoder.start_of(latent_frames)
        self._pending: Iterator[Tensor] = iter(())
        self._block = -1
        self._ended = self._done = False

    @property
    @override
    def has_room(self) -> bool:
        return True

    @override
    def take(self, latents: Tensor) -> Iterator[Decoded]:
        yield from self._rest()
        self._block += 1
        self._pending = self._decoder.decode(self._state, latents)

    @override
    def end(self) -> None:
        self._ended = True

    @override
    def some(self, *, patient: bool = False) -> Iterator[Decoded]:
        # A piece is what was done, and the frames.
        yield from islice(self._rest(), None if self._at_once or self._ended else 2)
        if self._ended:
            self._pending = self._decoder.finish(self._state)  # what was held back
            yield from self._rest()
            self._done = True

    @property
    @override
    def is_done(self) -> bool:
        return self._done

    def _rest(self) -> Iterator[Decoded]:
        """Decode what is left of the block, a latent frame at a time."""
        while True:
            start = time.perf_counter()
            with self._timings.part("decode"):
                frames = next(self._pending, None)
                if frames is None:
                    return
                pixels = _to_uint8(frames)
            yield ActionDone(Decode(block=self._block, frames=1), start, time.perf_counter())
            yield FramesDecoded(pixels)


@final
class GroupDecoding(Decoding):
    """Sends blocks to decode ranks, and takes the frames that come back.

    Args:
        blocks: To the ranks that decode.
        others: To the other decode ranks, which hear of the video's end alone.
        frames: From the first of those that decode.
        timings: Gets the seconds of part ``decode``: those in which this rank waits for frames.
    """

    def __init__(
        self,
        blocks: Sequence[Outbox],
        others: Sequence[Outbox],
        frames: Inbox,
        timings: Timings,
    ) -> None:
        self._blocks = blocks
        self._others = others
        self._frames = frames
        self._timings = timings
        self._waiting = 0
        self._done = False

    @property
    def is_idle(self) -> bool:
        """Whether the decode ranks have nothing to decode, as far as ``some`` has seen."""
        return self._waiting == 0

    @property
    @override
    def has_room(self) -> bool:
        return all(outbox.has_room for outbox in self._blocks)

    @override
    def take(self, latents: Tensor) -> Iterator[Decoded]:
        latents = latents.cpu()
        for outbox in self._blocks:
            outbox.send(latents)
        self._waiting += 1
        yield from ()

    @override
    def end(self) -> None:
        for outbox in (*self._blocks, *self._others):
            outbox.end()

    @override
    def some(self, *, patient: bool = False) -> Iterator[Decoded]:
        while not self._done:
            with self._timings.part("decode"):
                if not self._frames.arrived(_LOOK if patient else 0.0):
                    return
                frames = self._frames.receive()
            if frames is None:
                self._done = True
            elif frames.dtype == torch.int64:
                self._waiting -= 1
            else:
                yield FramesDecoded(frames)

    @property
    @override
    def is_done(self) -> bool:
        return self._done


def _to_uint8(frames: Tensor) -> Tensor:
    """Turn frames ``(frames, 3, height, width)`` in ``[-1, 1]`` into bytes, channels last."""
    pixels = frames.mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu()
