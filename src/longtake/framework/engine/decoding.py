"""Decoding of a video's blocks: on this rank between its tasks, or on decode ranks meanwhile."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.comm.communicator import BLOCKS
from longtake.comm.device_queue import HostCopies
from longtake.comm.mailboxes import BlockOutbox, Inbox
from longtake.errors import NumbersError
from longtake.framework.engine.events import FramesDecoded
from longtake.framework.engine.timings import Timings
from longtake.models import AnyDecoder
from longtake.plan.ir.actions import Action, Collect, Decode, Emit, Finish, Kind, Message, Send
from longtake.plan.ir.run import BetweenTasks, collect_rest, hand_over
from longtake.plan.layout import Layout
from longtake.strategies import ActionDone, BlockDone, Communicator
from longtake.task import Task

Decoded: TypeAlias = ActionDone | FramesDecoded
"""Frames, and what this rank did for them."""
LOOK: Final = 0.02
"""Seconds for which a rank or thread with nothing else to do waits for another at a time."""


class Decoding(ABC):
    """One video's frames, in the order of time. Where they are decoded cannot be seen in them."""

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether ``take`` would not wait."""

    @abstractmethod
    def after_task(self) -> Iterator[Decoded]:
        """Do what is to be done after each task."""

    @abstractmethod
    def take(self, task: Task, block: BlockDone) -> Iterator[Decoded]:
        """Take a block that a task has finished.

        Args:
            task: Which task.
            block: Which block.
        """

    @abstractmethod
    def end(self, next_block: int | None = None) -> None:
        """Say that there are no more blocks.

        Args:
            next_block: Latent frames of the block that would have come next, where the video is
                ended early.
        """

    @abstractmethod
    def some(self, *, patient: bool = False) -> Iterator[Decoded]:
        """Yield what has been decoded elsewhere; all that is left, once it has ended.

        Args:
            patient: Whether to wait a moment for what is decoded elsewhere.
        """

    @property
    @abstractmethod
    def is_done(self) -> bool:
        """Whether every frame has been yielded."""

    def close(self) -> None:  # noqa: B027 - an option, not a duty
        """Give up what is not decoded: an error has come, or nobody wants it any more."""


@final
class DecodedVideo:
    """A VAE's decoder at work on one video: the actions ``Decode`` and ``Finish``.

    Args:
        decoder: The VAE's decoder.
        timings: Gets the seconds of part ``decode``.
        latent_frames: Of the whole video; ``None`` for an endless one.
        copies: From the decoder's device to the host.
    """

    def __init__(
        self,
        decoder: AnyDecoder,
        timings: Timings,
        latent_frames: int | None,
        copies: HostCopies,
    ) -> None:
        self._decoder = decoder
        self._timings = timings
        self._copies = copies
        self._state = decoder.start_of(latent_frames)
        self._pending: dict[int, Iterator[Tensor]] = {}
        self._left: dict[int, int] = {}

    def take(self, block: int, latents: Tensor) -> None:
        """Take a block's latents ``(1, C, F, H, W)``, to be decoded when an action says so."""
        self._pending[block] = self._decoder.decode(self._state, latents)
        self._left[block] = latents.shape[2]

    def do(self, action: Decode | Finish) -> Iterator[Decoded]:
        """Decode as an action says, and yield the frames.

        Raises:
            NumbersError: They are not finite.
        """
        start = time.perf_counter()
        with self._timings.part("decode"):
            # On a GPU, begun at once and waited for last: it decodes the next ones meanwhile.
            copies = [
                (self._copies.bring(_to_uint8(frames)), self._copies.bring(_sum_of(frames)))
                for frames in self._decoded(action)
            ]
            pixels = [_finite(copied(), total(), action.block) for copied, total in copies]
        yield ActionDone(action, start, time.perf_counter())
        yield from map(FramesDecoded, pixels)

    def _decoded(self, action: Decode | Finish) -> Iterator[Tensor]:
        match action:
            case Finish():
                yield from self._decoder.finish(self._state)
            case Decode(block=block, frames=frames):
                self._left[block] -= frames
                # A decoder may take several latent frames at once, so the last ones exhaust it.
                last = self._left[block] == 0
                yield from islice(self._pending[block], None if last else frames)
                if last:
                    del self._pending[block], self._left[block]


@final
class OwnDecoding(Decoding):
    """Decodes on this rank: a latent frame after each task where other ranks wait for this one.

    Args:
        video: Decodes it.
        layout: Says whether other ranks wait.
    """

    def __init__(self, video: DecodedVideo, layout: Layout) -> None:
        self._video = video
        self._between = BetweenTasks(layout)
        self._ended = self._done = False

    @property
    @override
    def has_room(self) -> bool:
        return True

    @override
    def after_task(self) -> Iterator[Decoded]:
        yield from self._do(self._between.after_task())

    @override
    def take(self, task: Task, block: BlockDone) -> Iterator[Decoded]:
        emitted = emitted_by(task, block)
        self._video.take(block.block, block.latents)
        yield from self._do(self._between.after_block(emitted))

    @override
    def end(self, next_block: int | None = None) -> None:
        self._ended = True

    @override
    def some(self, *, patient: bool = False) -> Iterator[Decoded]:
        if self._ended and not self._done:
            yield from self._do(self._between.end())
            self._done = True

    @property
    @override
    def is_done(self) -> bool:
        return self._done

    def _do(self, actions: Iterator[Decode | Finish]) -> Iterator[Decoded]:
        for action in actions:
            yield from self._video.do(action)


@final
class GroupDecoding(Decoding):
    """Hands blocks over to decode ranks, and collects the frames that come back.

    Args:
        request: Number of the request in the run.
        layout: Says which ranks decode.
        communicator: The ranks of the run.
        blocks: To the ranks that decode.
        frames: From the first of them.
        timings: Gets the seconds of part ``decode``: those in which this rank waits for frames.
    """

    def __init__(
        self,
        request: int,
        layout: Layout,
        communicator: Communicator,
        blocks: Sequence[BlockOutbox],
        frames: Inbox,
        timings: Timings,
    ) -> None:
        self._request = request
        self._layout = layout
        self._communicator = communicator
        self._blocks = {outbox.target: outbox for outbox in blocks}
        self._frames = frames
        self._timings = timings
        self._last: Emit | None = None
        self._collected: deque[Message] = deque()
        self._ended = False

    @property
    def is_idle(self) -> bool:
        """Whether the decode ranks have nothing to decode, as far as ``some`` has seen."""
        return not any(message.kind is Kind.FRAMES for message in self._collected)

    @property
    @override
    def has_room(self) -> bool:
        return all(outbox.has_room for outbox in self._blocks.values())

    @override
    def after_task(self) -> Iterator[Decoded]:
        yield from ()

    @override
    def take(self, task: Task, block: BlockDone) -> Iterator[Decoded]:
        self._last, latents = emitted_by(task, block), block.latents.cpu()
        for action in hand_over(self._last, self._last.frames, self._request, self._layout):
            yield from self._do(action, latents)

    @override
    def end(self, next_block: int | None = None) -> None:
        self._ended = True
        if self._last is not None:
            message = collect_rest(self._last, self._request, self._layout).message
            self._collected.append(message)
        if next_block is not None:
            # Each decode rank has posted the next block, or will: there is none.
            self._communicator.announce_end(
                0 if self._last is None else self._last.index + 1, BLOCKS
            )
            for outbox in self._blocks.values():
                outbox.answer(next_block)

    @override
    def some(self, *, patient: bool = False) -> Iterator[Decoded]:
        while self._collected:
            with self._timings.part("decode"):
                if not self._frames.arrived(LOOK if patient else 0.0):
                    return
                frames = self._frames.receive()
            if frames is None:  # that was the last part of a message
                self._collected.popleft()
            else:
                yield FramesDecoded(frames)

    @property
    @override
    def is_done(self) -> bool:
        return self._ended and not self._collected

    def _do(self, action: Action, latents: Tensor) -> Iterator[Decoded]:
        start = time.perf_counter()
        match action:
            case Send(target=target):
                self._blocks[target].send(latents)
            case Collect(message=message):
                self._collected.append(message)
        yield ActionDone(action, start, time.perf_counter())


def emitted_by(task: Task, block: BlockDone) -> Emit:
    """Return the action by which a block has come out of the queue after a task."""
    return Emit(index=task.index, block=block.block, step=task.steps - 1, frames=len(block.frames))


def _to_uint8(frames: Tensor) -> Tensor:
    """Turn frames ``(frames, 3, height, width)`` in ``[-1, 1]`` into bytes, channels last."""
    pixels = frames.mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous()


def _sum_of(frames: Tensor) -> Tensor:
    """Return a number that is not finite if one of the frames' is not: bytes cannot tell."""
    return frames.sum(dtype=torch.float32)


def _finite(pixels: Tensor, total: Tensor, block: int) -> Tensor:
    """Return pixels that were made of finite numbers.

    Raises:
        NumbersError: They were not.
    """
    if not math.isfinite(float(total)):
        raise NumbersError(
            f"the VAE makes numbers that are not finite (NaN or infinite) of block {block}, "
            f"whose latents are finite, so the video would be black there; its weights are "
            f"damaged, or too large for model.vae_dtype: float32 holds the largest."
        )
    return pixels
