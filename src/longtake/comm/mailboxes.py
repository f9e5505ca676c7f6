"""Channels beside the mesh: blocks to decode ranks, and tensors of any shape, as they come.

Most messages have shapes that both sides know beforehand. Video frames come back in parts that
say how large they are: how many a VAE makes of a latent frame, and when, is its own business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, final

import torch
from torch import Tensor

from longtake.comm.communicator import Communicator
from longtake.comm.headers import header_of, of_header
from longtake.comm.p2p import Channel, Delivery

_SEND_BLOCK: Final = "send a finished block"


@final
class BlockOutbox:
    """Finished blocks to one decode rank; bounded, so that a rank that lags makes others wait.

    Args:
        communicator: The ranks of the run.
        channel: For blocks on the CPU.
        target: The decode rank.
        empty: Returns a buffer of a block of so many latent frames.
    """

    _LIMIT: Final = 2
    """Blocks on their way."""

    def __init__(
        self,
        communicator: Communicator,
        channel: Channel,
        target: int,
        empty: Callable[[int], Tensor],
    ) -> None:
        self.target = target
        self._channel = channel
        self._communicator = communicator
        self._empty = empty
        self._sending: deque[Delivery] = deque()

    @property
    def has_room(self) -> bool:
        """Whether ``send`` would begin at once."""
        while self._sending and self._communicator.is_through(
            self._sending[0], _SEND_BLOCK, self.target
        ):
            self._sending.popleft()
        return len(self._sending) < self._LIMIT

    def send(self, latents: Tensor) -> None:
        """Begin to send a block's latents ``(1, C, F, H, W)``; waits while there is no room."""
        while not self.has_room:
            self._wait()
        self._sending.append(self._channel.send(latents.float().contiguous(), self.target))

    def answer(self, frames: int) -> None:
        """Answer the post of a block that will not come."""
        self.send(self._empty(frames).fill_(torch.nan))

    def flush(self) -> None:
        """Wait until the other side has everything."""
        while self._sending:
            self._wait()

    def _wait(self) -> None:
        self._communicator.wait(self._sending.popleft(), _SEND_BLOCK, self.target)


@final
class Outbox:
    """The sending side. Nothing waits but for the limit, so memory stays bounded.

    Args:
        communicator: The ranks of the run.
        channel: A channel for tensors on the CPU that nothing else uses between these two ranks.
        target: The rank that receives.
        limit: The most tensors that may be on their way.
        what: They are, in words, should the other rank be gone: ``video frames``.
    """

    def __init__(
        self, communicator: Communicator, channel: Channel, target: int, limit: int, what: str
    ) -> None:
        self._communicator = communicator
        self._channel = channel
        self._target = target
        self._limit = limit
        self._what = f"send {what}"
        self._sending: deque[list[Delivery]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether ``send`` would begin at once."""
        while self._sending and all(self._is_through(one) for one in self._sending[0]):
            self._sending.popleft()
        return len(self._sending) < self._limit

    def send(self, tensor: Tensor) -> None:
        """Begin to send a tensor, any shape, on the CPU; waits while the limit is reached."""
        while not self.has_room:
            self._wait()
        tensor = tensor.contiguous()
        header = self._channel.send(header_of(tensor), self._target)
        self._sending.append([header, self._channel.send(tensor, self._target)])

    def end(self) -> None:
        """End a message of several parts; never waits."""
        self._sending.append([self._channel.send(header_of(None), self._target)])

    def flush(self) -> None:
        """Wait until the other side has everything."""
        while self._sending:
            self._wait()

    def _is_through(self, delivery: Delivery) -> bool:
        return self._communicator.is_through(delivery, self._what, self._target)

    def _wait(self) -> None:
        for delivery in self._sending.popleft():
            self._communicator.wait(delivery, self._what, self._target)


@final
class Inbox:
    """The receiving side.

    Args:
        communicator: The ranks of the run.
        channel: The sender's.
        source: The rank that sends.
        what: In words: ``a finished block``.
    """

    def __init__(
        self, communicator: Communicator, channel: Channel, source: int, what: str
    ) -> None:
        self._communicator = communicator
        self._channel = channel
        self._source = source
        self._what = f"receive {what}"
        self._header: tuple[Tensor, Delivery] | None = None

    def arrived(self, seconds: float = 0.0) -> bool:
        """Return whether there is something to receive, after at most ``seconds``."""
        _, delivery = self._posted()
        self._communicator.check(self._what)
        return self._communicator.is_through(delivery, self._what, self._source, seconds)

    def receive(self) -> Tensor | None:
        """Wait for the next tensor and return it; ``None`` at the end of a message."""
        header, delivery = self._posted()
        self._communicator.wait(delivery, self._what, self._source)
        self._header = None
        tensor = of_header(header)
        if tensor is not None and tensor.numel():
            self._communicator.wait(
                self._channel.post(tensor, self._source), self._what, self._source
            )
        return tensor

    def _posted(self) -> tuple[Tensor, Delivery]:
        if self._header is None:
            header = header_of(None)
            self._header = header, self._channel.post(header, self._source)
        return self._header
