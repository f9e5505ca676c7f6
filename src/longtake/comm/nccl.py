"""NCCL transport: tensors on GPUs, over NVLink, PCIe or the network.

NCCL's transfers are kernels that spin until the other side has begun; see
:mod:`longtake.comm.rendezvous` for what follows from it. All messages of a rank share one
communicator and one stream of high priority; each group of ranks that exchange within a layer has
its own, used by the rank's own thread alone, in the order of the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, final

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from longtake.comm.device_queue import Reached, mark
from longtake.comm.p2p import TIMEOUT
from longtake.comm.rank_group import BatchedGroup, RankGroup
from longtake.comm.rendezvous import RendezvousTransport, Wire

_CTAS: Final = 4
"""Thread blocks that a message may take from the kernels that compute beside it. An exchange within
a layer takes what it can: computing waits for it."""


@final
class NcclTransport(RendezvousTransport):
    """What ranks use that have a GPU each. Making it is collective.

    Args:
        device: This rank's.
    """

    name = "nccl"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._groups: list[dist.ProcessGroup] = []
        everyone = range(dist.get_world_size())
        super().__init__(_NcclWire(self._made(everyone, _CTAS), device))

    @override
    def group(self, ranks: Sequence[int]) -> RankGroup | None:
        group = self._made(ranks)
        return BatchedGroup(group) if dist.get_rank() in ranks else None

    @override
    def abort(self) -> None:
        for group in self._groups:
            backend: Any = group._get_backend(self._device)
            backend.abort()

    def _made(self, ranks: Sequence[int], ctas: int | None = None) -> dist.ProcessGroup:
        """Make a group and its communicator: batches of messages need one that is there.

        Args:
            ranks: The group's.
            ctas: Most thread blocks of a transfer; ``None``: as NCCL likes.
        """
        nccl: Any = dist.ProcessGroupNCCL
        options = nccl.Options(is_high_priority_stream=True)
        if ctas is not None:
            options.config.max_ctas = ctas
        group: dist.ProcessGroup = dist.new_group(
            list(ranks), backend="nccl", timeout=TIMEOUT, pg_options=options
        )
        if dist.get_rank() in ranks:
            self._groups.append(group)
            dist.all_reduce(torch.zeros(1, device=self._device), group=group)
        return group


@final
class _NcclWire(Wire):
    """Transfers on one stream, behind nothing: what they need is computed when they begin."""

    def __init__(self, group: dist.ProcessGroup, device: torch.device) -> None:
        self._group = group
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @override
    def send(self, tensor: Tensor, target: int) -> Reached:
        return self._begin(dist.isend, tensor, target)

    @override
    def receive(self, tensor: Tensor, source: int) -> Reached:
        return self._begin(dist.irecv, tensor, source)

    def _begin(self, start: Callable[..., Any], tensor: Tensor, peer: int) -> Reached:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            # A batch of one: a message alone would make a communicator and a stream of its pair.
            message = dist.P2POp(start, tensor, group=self._group, group_peer=peer)
            for work in dist.batch_isend_irecv([message]):
                work.wait()  # holds up this stream alone
            return mark(self._device)
