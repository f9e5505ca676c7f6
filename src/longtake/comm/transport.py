"""Transport contract: how tensors on the ranks' devices travel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from longtake.comm.p2p import Channel
from longtake.comm.rank_group import RankGroup


class Transport(ABC):
    """Makes what the ranks of a run exchange tensors with, once for all requests.

    Every implementation keeps these rules, which CUDA and NCCL ask for; the contract suite of
    strategies runs under an emulation of them (:mod:`longtake.testing.cuda_rules`):

    - a transfer begins on a device when both sides can go through with it, never before;
    - a rank's transfers go one after another, in an order without a circle;
    - nothing waits for a whole device.
    """

    name: str
    """What the run says that it uses."""

    @abstractmethod
    def channel(self) -> Channel:
        """Make a channel for tensors on the device. Collective: all ranks of the run.

        One for each kind of message: between two ranks, messages of a kind go in one direction.
        """

    @abstractmethod
    def group(self, ranks: Sequence[int]) -> RankGroup | None:
        """Make a group of ranks that exchange tensors while they compute.

        Collective: all ranks of the run, also those that are not in it, which get ``None``.
        """

    @abstractmethod
    def abort(self) -> None:
        """Give up every transfer: the run has failed. Never waits."""
