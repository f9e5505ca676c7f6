"""All-to-all: every rank of a group gives each of the others something, all at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class AllToAll:
    """A swap under way. Computing may go on meanwhile.

    Args:
        works: The messages.
        sent: What is sent, alive until it is through.
        arrivals: What is received, and where it belongs.
    """

    works: list[Any]
    sent: list[Tensor]
    arrivals: list[tuple[Tensor, Sequence[Tensor]]]

    @classmethod
    def begin(
        cls,
        group: dist.ProcessGroup,
        index: int,
        parts: Sequence[Sequence[Tensor]],
        places: Sequence[Sequence[Tensor]],
    ) -> AllToAll:
        """Begin to give every rank its part.

        Collective: all ranks of the group begin the same swaps in the same order. What goes from
        one rank to another is one message, and what a rank keeps is copied without one.

        Args:
            group: The ranks.
            index: This rank's place in it.
            parts: For each rank some tensors of one shape, of any strides.
            places: For each rank where the tensors belong that it gives, of any strides; filled
                when the swap has ended.
        """
        others = [rank for rank in range(len(parts)) if rank != index]
        sent = [torch.stack(tuple(parts[rank])) for rank in others]
        received = [_empty(places[rank]) for rank in others]
        sends = [
            dist.P2POp(dist.isend, tensor, group=group, group_peer=rank)
            for rank, tensor in zip(others, sent, strict=True)
        ]
        receives = [
            dist.P2POp(dist.irecv, tensor, group=group, group_peer=rank)
            for rank, tensor in zip(others, received, strict=True)
        ]
        works = dist.batch_isend_irecv(sends + receives)
        for place, tensor in zip(places[index], parts[index], strict=True):
            place.copy_(tensor)
        arrivals = [(tensor, places[rank]) for rank, tensor in zip(others, received, strict=True)]
        return cls(works, sent, arrivals)

    def end(self) -> None:
        """Wait for what the others give, and put it where it belongs. Once."""
        for work in self.works:
            work.wait()
        for received, places in self.arrivals:
            for place, tensor in zip(places, received, strict=True):
                place.copy_(tensor)


def _empty(places: Sequence[Tensor]) -> Tensor:
    return places[0].new_empty((len(places), *places[0].shape))
