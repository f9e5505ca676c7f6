"""Host channel: messages between tensors on the CPU, over gloo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, final

import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from longtake.comm.courier import Courier
from longtake.comm.p2p import TIMEOUT, Channel, Delivery


@final
class HostChannel(Channel):
    """Messages over gloo, whose transfers go on in threads of its own.

    Args:
        group: A process group that no other channel uses.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self._receiving = Courier()
        self._sending = Courier()

    @classmethod
    def make(cls) -> Self:
        """Make a channel with a group of its own. Collective."""
        return cls(dist.new_group(backend="gloo", timeout=TIMEOUT))

    @override
    def post(self, tensor: Tensor, source: int) -> Delivery:
        start = lambda: dist.irecv(tensor, source, group=self._group)  # noqa: E731
        return _delivered(self._receiving, tensor, start)

    @override
    def send(self, tensor: Tensor, target: int) -> Delivery:
        start = lambda: dist.isend(tensor, target, group=self._group)  # noqa: E731
        return _delivered(self._sending, tensor, start)


def _delivered(courier: Courier, tensor: Tensor, start: Callable[[], Any]) -> Delivery:
    try:
        return courier.deliver(tensor, start().wait)
    except RuntimeError as error:
        return courier.lost(tensor, error)
