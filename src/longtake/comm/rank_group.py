"""Rank group: ranks that give one another tensors at the same time, while they compute."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias, final

import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

Part: TypeAlias = tuple[int, Tensor]
"""A rank's place in the group, and a tensor (contiguous) for it or from it."""


class Exchange(ABC):
    """Tensors on their way; they stay alive as long as this does."""

    @abstractmethod
    def end(self) -> None:
        """Have what is computed next wait until everything has arrived. Once."""


class RankGroup(ABC):
    """Some ranks of a run. Computing may go on during an exchange.

    Collective: all ranks of a group begin the same exchanges in the same order. Tensors without a
    number are no messages.
    """

    @abstractmethod
    def begin(self, given: Sequence[Part], coming: Sequence[Part]) -> Exchange:
        """Begin to give and to receive tensors, all at the same time.

        Args:
            given: What goes to other ranks.
            coming: Where to put what they give.
        """


@final
class BatchedGroup(RankGroup):
    """Exchanges as batches of messages: of gloo, or fused into one kernel of NCCL's.

    Args:
        group: The ranks, which know one another: NCCL has made its communicator.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    @override
    def begin(self, given: Sequence[Part], coming: Sequence[Part]) -> Exchange:
        messages = [
            dist.P2POp(start, tensor, group=self._group, group_peer=place)
            for start, parts in ((dist.isend, given), (dist.irecv, coming))
            for place, tensor in parts
            if tensor.numel()
        ]
        works = dist.batch_isend_irecv(messages) if messages else []
        return _Batch(works, (given, coming))


@final
class _Batch(Exchange):
    def __init__(self, works: Sequence[Any], alive: object) -> None:
        self._works, self._alive = works, alive

    @override
    def end(self) -> None:
        for work in self._works:
            work.wait()
