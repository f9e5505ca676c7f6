"""Point-to-point (P2P) channels: messages that are under way while a rank computes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Final

from torch import Tensor

TIMEOUT: Final = timedelta(days=7)
"""The one time-out of all process groups. None of them is to run out: how long an action takes is
for the watchdog to judge, so that a slow first block is never taken for a hang."""


class Delivery(ABC):
    """A message under way, in either direction. The tensor stays alive as long as this does."""

    @abstractmethod
    def wait(self, seconds: float) -> bool:
        """Wait for at most ``seconds``; return whether the message is through.

        Raises:
            ConnectionError: The other side is gone.
        """


class Channel(ABC):
    """Messages of one kind, between this rank and others, in order per pair of ranks.

    Between two ranks a channel is used in one direction only. A post never holds up the device: a
    transport whose transfers do, NCCL's, begins them when both sides are there.
    """

    @abstractmethod
    def post(self, tensor: Tensor, source: int) -> Delivery:
        """Begin to receive into ``tensor`` from rank ``source``; returns at once."""

    @abstractmethod
    def send(self, tensor: Tensor, target: int) -> Delivery:
        """Begin to send ``tensor`` (contiguous) to rank ``target``; returns at once."""
