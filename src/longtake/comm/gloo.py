"""Gloo transport: tensors on CPUs, over sockets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch.distributed as dist
from typing_extensions import override

from longtake.comm.host_channel import HostChannel
from longtake.comm.p2p import TIMEOUT, Channel
from longtake.comm.rank_group import BatchedGroup, RankGroup
from longtake.comm.transport import Transport


@final
class GlooTransport(Transport):
    """What ranks on CPUs use. A post costs nothing: gloo's threads wait, not the device."""

    name = "gloo"

    @override
    def channel(self) -> Channel:
        return HostChannel.make()

    @override
    def group(self, ranks: Sequence[int]) -> RankGroup | None:
        group = dist.new_group(list(ranks), backend="gloo", timeout=TIMEOUT)
        return BatchedGroup(group) if dist.get_rank() in ranks else None

    @override
    def abort(self) -> None:
        """Do nothing: gloo's sockets close with the process."""
