"""Emulated transport: NCCL's, between emulated devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, final

import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from longtake.comm.communicator import Communicator
from longtake.comm.device_queue import Reached
from longtake.comm.p2p import TIMEOUT
from longtake.comm.rank_group import BatchedGroup, Exchange, Part, RankGroup
from longtake.comm.rendezvous import RendezvousTransport, Slot, Wire
from longtake.comm.transport import Transport
from longtake.plan.ir.actions import CHANNELS
from longtake.testing.cuda_rules.device import POLL, Begun, EmulatedDevice, Hang
from longtake.testing.cuda_rules.order import Sent

_STALL: Final = timedelta(seconds=60)
"""On a busy machine a healthy rank may be silent for long."""


@final
class EmulatedWire(Wire):
    """Messages between emulated devices, on one stream of each.

    Args:
        device: The rank's.
        group: A gloo group of its own.
    """

    def __init__(self, device: EmulatedDevice, group: dist.ProcessGroup) -> None:
        self._device = device
        self._group = group
        self._rank = dist.get_rank()

    @override
    def send(self, tensor: Tensor, target: int) -> Reached:
        start = lambda: [dist.isend(tensor, target, group=self._group)]  # noqa: E731
        return self._begin(tensor, self._rank, target, start).ended

    @override
    def receive(self, tensor: Tensor, source: int) -> Reached:
        start = lambda: [dist.irecv(tensor, source, group=self._group)]  # noqa: E731
        return self._begin(tensor, source, self._rank, start).ended

    def _begin(
        self, tensor: Tensor, source: int, target: int, start: Callable[[], Sequence[Any]]
    ) -> Begun:
        self._device.log.append(Sent("messages", source, target, tensor.numel()))
        what = f"message of {tuple(tensor.shape)} from rank {source} to rank {target}"
        return self._device.begin("messages", what, start)


@final
class EmulatedGroup(RankGroup):
    """Exchanges within a layer, on one stream of each device: all groups of a rank share it.

    Args:
        device: The rank's.
        group: A gloo group of its own.
        name: Of the communicator.
    """

    def __init__(self, device: EmulatedDevice, group: dist.ProcessGroup, name: str) -> None:
        self._device = device
        self._group = group
        self._name = name
        self._rank = dist.get_rank(group)

    @override
    def begin(self, given: Sequence[Part], coming: Sequence[Part]) -> Exchange:
        for place, tensor in given:
            self._device.log.append(Sent(self._name, self._rank, place, tensor.numel()))
        for place, tensor in coming:
            self._device.log.append(Sent(self._name, place, self._rank, tensor.numel()))
        batch = BatchedGroup(self._group)
        start = lambda: [_Ended(batch.begin(given, coming))]  # noqa: E731
        return _Begun(self._device.begin("layers", f"an exchange of {self._name}", start))


@final
class _Ended:
    """An exchange, with the name that gloo gives to waiting for it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def wait(self) -> None:
        self._exchange.end()


@final
class _Begun(Exchange):
    def __init__(self, begun: Begun) -> None:
        self._begun = begun

    @override
    def end(self) -> None:
        while not self._begun.ended():
            time.sleep(POLL)


@final
class EmulatedTransport(RendezvousTransport):
    """NCCL's transport, between emulated devices. Making it is collective.

    Args:
        device: The rank's.
        slot: Of the rank; tests give one that holds nothing.
    """

    name = "emulated"

    def __init__(self, device: EmulatedDevice, slot: Slot | None = None) -> None:
        self._device = device
        group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        super().__init__(EmulatedWire(device, group), slot)

    @override
    def group(self, ranks: Sequence[int]) -> RankGroup | None:
        group = dist.new_group(list(ranks), backend="gloo", timeout=TIMEOUT)
        if dist.get_rank() not in ranks:
            return None
        return EmulatedGroup(self._device, group, f"group {tuple(ranks)}")

    @override
    def abort(self) -> None:
        """Do nothing: the threads of the queues are daemons."""


@contextmanager
def emulated_ranks(
    communicator: Communicator,
    device: EmulatedDevice,
    transport: Callable[[EmulatedDevice], Transport] = EmulatedTransport,
) -> Iterator[Communicator]:
    """Connect the ranks of a pool once more, as emulated devices. Collective.

    Args:
        communicator: Of the pool.
        device: This rank's.
        transport: What connects them.
    """
    ranks = Communicator.connect(
        communicator.device, CHANNELS, _STALL, transport=lambda: transport(device)
    )
    try:
        yield ranks
    except Hang as hang:
        ranks.fail(f"Hang: {hang}")
        raise
    finally:
        ranks.close()
        device.close()
