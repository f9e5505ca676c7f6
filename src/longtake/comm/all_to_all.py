"""All-to-all: every rank of a group gives each of the others something, all at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from longtake.comm.rank_group import Exchange, RankGroup


@final
@dataclass(frozen=True, slots=True)
class AllToAll:
    """A swap under way. Computing may go on meanwhile.

    Args:
        under_way: The messages.
        arrivals: What is received, and where it belongs.
    """

    under_way: Exchange
    arrivals: list[tuple[Tensor, Sequence[Tensor]]]

    @classmethod
    def begin(
        cls,
        group: RankGroup,
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
        sent = [(rank, torch.stack(tuple(parts[rank]))) for rank in others]
        received = [(rank, _empty(places[rank])) for rank in others]
        under_way = group.begin(sent, received)
        for place, tensor in zip(places[index], parts[index], strict=True):
            place.copy_(tensor)
        return cls(under_way, [(tensor, places[rank]) for rank, tensor in received])

    def end(self) -> None:
        """Wait for what the others give, and put it where it belongs. Once."""
        self.under_way.end()
        for received, places in self.arrivals:
            for place, tensor in zip(places, received, strict=True):
                place.copy_(tensor)


def _empty(places: Sequence[Tensor]) -> Tensor:
    return places[0].new_empty((len(places), *places[0].shape))
