"""Rendezvous: both sides of a transfer meet on the host before either device begins it.

A transfer of NCCL's is a kernel that spins until the other side's runs too. Begun early, it holds
up whatever waits for the whole device: the first launch of a kernel (lazy module loading), an
allocator that gives memory back, a teardown. And two of them that meet in another order on the
other side wait for one another for ever. So for each message, over gloo:

    receiver: READY  the buffer is free
    sender:   GO     the tensor is computed
    receiver: ACK    its device takes the transfer now; then both begin it

and each rank has one slot: of its transfers one is begun at a time. Of two ranks the lower one
takes its slot first, so that no circle of ranks waits for slots.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from contextlib import AbstractContextManager, ExitStack
from enum import IntEnum
from itertools import count
from typing import TypeAlias, final

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from longtake.comm.courier import Courier
from longtake.comm.device_queue import Reached, mark, wait_for
from longtake.comm.p2p import TIMEOUT, Channel, Delivery
from longtake.comm.transport import Transport

Slot: TypeAlias = AbstractContextManager[object]
"""Held from before a transfer begins on this rank's device until it has ended there."""


class Wire(ABC):
    """Transfers that hold up the device from when they begin until both sides have begun."""

    @abstractmethod
    def send(self, tensor: Tensor, target: int) -> Reached:
        """Begin to send; what is returned says whether the transfer has ended here."""

    @abstractmethod
    def receive(self, tensor: Tensor, source: int) -> Reached:
        """Begin to receive; see ``send``."""


class _Word(IntEnum):
    READY = 0
    GO = 1
    ACK = 2


@final
class RendezvousChannel(Channel):
    """Messages of one kind, begun on the devices when both sides have said so.

    The rank's own thread waits for none of it: a courier per partner and direction does.

    Args:
        wire: Of the rank, for all its channels.
        slot: Of the rank, for all its channels.
        talk: A gloo group for what the hosts say, for all channels.
        number: The channel's: its words are told from those of others by it.
        rank: This rank.
    """

    def __init__(
        self, wire: Wire, slot: Slot, talk: dist.ProcessGroup, number: int, rank: int
    ) -> None:
        self._wire = wire
        self._slot = slot
        self._talk = talk
        self._number = number
        self._rank = rank
        self._receiving: dict[int, Courier] = defaultdict(Courier)
        self._sending: dict[int, Courier] = defaultdict(Courier)

    @override
    def post(self, tensor: Tensor, source: int) -> Delivery:
        # The allocator may have given the tensor memory that queued kernels still use.
        free = mark(tensor.device)
        return self._receiving[source].deliver(tensor, lambda: self._receive(tensor, source, free))

    @override
    def send(self, tensor: Tensor, target: int) -> Delivery:
        made = mark(tensor.device)
        return self._sending[target].deliver(tensor, lambda: self._send(tensor, target, made))

    def _receive(self, tensor: Tensor, source: int, free: Reached) -> None:
        wait_for(free)
        self._say(_Word.READY, source)
        self._hear(_Word.GO, source)
        with self._slot:
            self._say(_Word.ACK, source)
            wait_for(self._wire.receive(tensor, source))

    def _send(self, tensor: Tensor, target: int, made: Reached) -> None:
        self._hear(_Word.READY, target)
        wait_for(made)
        with ExitStack() as held:
            if self._rank < target:
                held.enter_context(self._slot)
            self._say(_Word.GO, target)
            self._hear(_Word.ACK, target)
            if self._rank > target:
                held.enter_context(self._slot)
            wait_for(self._wire.send(tensor, target))

    def _say(self, word: _Word, rank: int) -> None:
        dist.send(_told(), rank, group=self._talk, tag=self._tag(word))

    def _hear(self, word: _Word, rank: int) -> None:
        dist.recv(_told(), rank, group=self._talk, tag=self._tag(word))

    def _tag(self, word: _Word) -> int:
        return self._number * len(_Word) + word


def _told() -> Tensor:
    return torch.zeros(1, dtype=torch.uint8)


class RendezvousTransport(Transport):
    """A transport of devices that transfers hold up. Making it is collective.

    Args:
        wire: Of the rank: all messages go over it.
        slot: Of the rank; left out: one that a transfer holds at a time.
    """

    def __init__(self, wire: Wire, slot: Slot | None = None) -> None:
        self._wire = wire
        self._slot = threading.Lock() if slot is None else slot
        self._talk = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self._numbers = count()

    @override
    def channel(self) -> Channel:
        number = next(self._numbers)
        return RendezvousChannel(self._wire, self._slot, self._talk, number, dist.get_rank())
