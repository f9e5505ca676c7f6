"""Tensors of any shape from one rank to another, in order, as they come.

Messages of a plan have shapes that both sides know beforehand. What goes to a decode rank and
comes back has not: a stop may end a video at any block, and a VAE may hold frames back.
"""

from __future__ import annotations

from collections import deque
from typing import final

from torch import Tensor

from longtake.comm.communicator import Communicator
from longtake.comm.headers import header_of, of_header
from longtake.comm.p2p import Channel, Delivery


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
        """Report to the other side that nothing more comes for this video; never waits."""
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
        """Wait for the next tensor and return it; ``None`` when the video has ended."""
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
