"""Staged transport: tensors on GPUs, through pinned host memory and gloo.

Slower than NCCL, and works where that does not: ranks that share a GPU, GPUs whose links or driver
NCCL does not get on with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from longtake.comm.courier import Courier
from longtake.comm.device_queue import HostCopies, Reached, mark, settle, wait_for
from longtake.comm.p2p import TIMEOUT, Channel, Delivery
from longtake.comm.rank_group import BatchedGroup, Exchange, Part, RankGroup
from longtake.comm.transport import Transport


@final
class StagedTransport(Transport):
    """Copies to the host, sends over gloo, copies to the device.

    Args:
        device: This rank's; on a CPU, for tests, tensors are copied all the same.
    """

    name = "staged"

    def __init__(self, device: torch.device) -> None:
        self._copies = HostCopies(device)

    @override
    def channel(self) -> Channel:
        return StagedChannel(dist.new_group(backend="gloo", timeout=TIMEOUT), self._copies)

    @override
    def group(self, ranks: Sequence[int]) -> RankGroup | None:
        group = dist.new_group(list(ranks), backend="gloo", timeout=TIMEOUT)
        return StagedGroup(group, self._copies) if dist.get_rank() in ranks else None

    @override
    def abort(self) -> None:
        """Do nothing: no device waits for another one."""


@final
class StagedChannel(Channel):
    """Messages of one kind. Couriers copy and wait; the rank's own thread does neither.

    Args:
        group: A gloo group that no other channel uses.
        copies: Of the rank's device.
    """

    def __init__(self, group: dist.ProcessGroup, copies: HostCopies) -> None:
        self._group = group
        self._copies = copies
        self._receiving = Courier()
        self._sending = Courier()

    @override
    def post(self, tensor: Tensor, source: int) -> Delivery:
        host, free = self._copies.buffer(tensor), mark(tensor.device)
        try:
            work = dist.irecv(host, source, group=self._group)
        except RuntimeError as error:
            return self._receiving.lost(tensor, error)

        def bring() -> None:
            assert work is not None
            work.wait()
            wait_for(self._copies.begin(host, tensor, free))

        return self._receiving.deliver(tensor, bring)

    @override
    def send(self, tensor: Tensor, target: int) -> Delivery:
        host = self._copies.buffer(tensor)
        copied = self._copies.begin(tensor, host)
        return self._sending.deliver(tensor, lambda: self._send(host, copied, target))

    def _send(self, host: Tensor, copied: Reached, target: int) -> None:
        wait_for(copied)
        dist.send(host, target, group=self._group)


@final
class StagedGroup(RankGroup):
    """Exchanges through host memory: the simple way, one copy after another.

    Args:
        group: Of gloo's.
        copies: Of the rank's device.
    """

    def __init__(self, group: dist.ProcessGroup, copies: HostCopies) -> None:
        self._group = BatchedGroup(group)
        self._copies = copies

    @override
    def begin(self, given: Sequence[Part], coming: Sequence[Part]) -> Exchange:
        sent = [(place, self._copies.buffer(tensor)) for place, tensor in given]
        marks = [
            self._copies.begin(tensor, host)
            for (_, tensor), (_, host) in zip(given, sent, strict=True)
        ]
        received = [(place, self._copies.buffer(tensor)) for place, tensor in coming]
        for copied in marks:
            wait_for(copied)
        return _StagedExchange(self._group.begin(sent, received), received, coming)


@final
class _StagedExchange(Exchange):
    def __init__(
        self, under_way: Exchange, received: Sequence[Part], coming: Sequence[Part]
    ) -> None:
        self._under_way, self._received, self._coming = under_way, received, coming

    @override
    def end(self) -> None:
        self._under_way.end()
        for (_, host), (_, tensor) in zip(self._received, self._coming, strict=True):
            tensor.copy_(host, non_blocking=True)
        if self._coming:
            settle(self._coming[0][1].device)  # then the host memory may go
