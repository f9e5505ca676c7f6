"""Replica of the mesh: consecutive ranks of a run that make videos of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

from torch import Tensor
from typing_extensions import override

from longtake.comm.p2p import Channel, Delivery


@final
@dataclass(frozen=True, slots=True)
class Replica:
    """Which ranks of a run a communicator is of; they are numbered from 0 among themselves.

    Args:
        number: Of the replica.
        size: Ranks of each.
        count: How many there are; together they are all ranks of the run.
    """

    number: int
    size: int
    count: int

    @classmethod
    def of(cls, rank: int, size: int, world_size: int) -> Self:
        """Return the replica of a rank of the run.

        Args:
            rank: Which one.
            size: Ranks of each replica.
            world_size: Ranks of the run.
        """
        return cls(rank // size, size, world_size // size)

    @property
    def first(self) -> int:
        """Its first rank, as the run numbers it."""
        return self.number * self.size

    def everywhere(self, ranks: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return what some ranks of a replica are called in the run, replica by replica."""
        return [tuple(number * self.size + rank for rank in ranks) for number in range(self.count)]


@final
class ReplicaChannel(Channel):
    """A channel of the run, used within a replica: other ranks by what they are called there.

    Args:
        channel: Of the run.
        first: The replica's first rank.
    """

    def __init__(self, channel: Channel, first: int) -> None:
        self._channel = channel
        self._first = first

    @override
    def post(self, tensor: Tensor, source: int) -> Delivery:
        return self._channel.post(tensor, self._first + source)

    @override
    def send(self, tensor: Tensor, target: int) -> Delivery:
        return self._channel.send(tensor, self._first + target)
