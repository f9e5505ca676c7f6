"""Posted transport: the one that longtake had, which hangs under CUDA's rules."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import count
from typing import final

import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from longtake.comm.p2p import TIMEOUT, Channel, Delivery
from longtake.comm.rank_group import RankGroup
from longtake.comm.transport import Transport
from longtake.testing.cuda_rules.device import POLL, Begun, EmulatedDevice
from longtake.testing.cuda_rules.transport import EmulatedTransport


@final
class PostedChannel(Channel):
    """A channel as none must be: each side begins its transfer when it likes, on its own stream.

    So that tests can show what the rules are for.

    Args:
        device: The rank's.
        name: Of its streams.
    """

    def __init__(self, device: EmulatedDevice, name: str) -> None:
        self._device = device
        self._name = name
        self._group = dist.new_group(backend="gloo", timeout=TIMEOUT)

    @override
    def post(self, tensor: Tensor, source: int) -> Delivery:
        start = lambda: [dist.irecv(tensor, source, group=self._group)]  # noqa: E731
        what = f"posted receive of {tuple(tensor.shape)} from rank {source}"
        return _Polled(tensor, self._device.begin(f"{self._name} in", what, start))

    @override
    def send(self, tensor: Tensor, target: int) -> Delivery:
        start = lambda: [dist.isend(tensor, target, group=self._group)]  # noqa: E731
        what = f"send of {tuple(tensor.shape)} to rank {target}"
        return _Polled(tensor, self._device.begin(f"{self._name} out", what, start))


@final
class _Polled(Delivery):
    def __init__(self, tensor: Tensor, begun: Begun) -> None:
        self._tensor, self._begun = tensor, begun

    @override
    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self._begun.ended():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL)
        return True


@final
class PostedTransport(Transport):
    """The transport that longtake had: receives are posted ahead, whatever the device does.

    Args:
        device: The rank's.
    """

    name = "posted"

    def __init__(self, device: EmulatedDevice) -> None:
        self._device = device
        self._rest = EmulatedTransport(device)
        self._numbers = count()

    @override
    def channel(self) -> Channel:
        return PostedChannel(self._device, f"channel {next(self._numbers)}")

    @override
    def group(self, ranks: Sequence[int]) -> RankGroup | None:
        return self._rest.group(ranks)

    @override
    def abort(self) -> None:
        """Do nothing."""
