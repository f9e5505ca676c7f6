"""Ring attention: keys and values go round, partial results are merged by their log-sum-exp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from longtake.comm.rank_group import Exchange, RankGroup
from longtake.strategies.exchange.log_sum_exp import LseKernel, attention_with_lse, merge


@final
class RingKernel:
    """An attention kernel whose keys and values are spread over the ranks of a group.

    Each rank attends from its own queries to the keys that it holds, while it passes them on to
    the next rank and receives those of the one before. A rank sends, per layer, every part of the
    keys and values but the one that its successor holds from the start (``sent_numbers``).

    Args:
        group: The ranks of the ring.
        index: This rank's place in it.
        keys: Tokens whose keys each rank holds.
        with_lse: The attention kernel of one device, with its log-sum-exp.
    """

    def __init__(
        self,
        group: RankGroup,
        index: int,
        keys: Sequence[int],
        with_lse: LseKernel = attention_with_lse,
    ) -> None:
        self._group = group
        self._index = index
        self._keys = list(keys)
        self._with_lse = with_lse

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from ``q`` to the keys of all ranks.

        Collective: all ranks of the group call it for the same layers in the same order.

        Args:
            q: This rank's queries, ``(B, S, N, D)``.
            k: The keys that this rank holds, ``(B, S', N, D)``.
            v: Their values.

        Returns:
            ``(B, S, N, D)``, in the dtype of ``q``.
        """
        out: Tensor | None = None
        lse = q.new_empty(0)
        # One head's tokens after another, which is how kernels like their keys best.
        held, degree = torch.stack((k.transpose(1, 2), v.transpose(1, 2))), len(self._keys)
        for turn in range(degree):
            source = (self._index - turn - 1) % degree
            coming: Tensor = held
            passing: Exchange | None = None
            if turn < degree - 1:
                coming = held.new_empty((*held.shape[:3], self._keys[source], held.shape[4]))
                passing = self._pass_on(held, coming)
            if held.shape[3]:  # with fewer tokens than ranks, some hold none
                keys, values = (tensor.transpose(1, 2) for tensor in held)
                part, part_lse = self._with_lse(q, keys, values)
                out, lse = (part, part_lse) if out is None else merge(out, lse, part, part_lse)
            if passing is not None:
                passing.end()
            held = coming
        assert out is not None, "a window has keys on some rank"
        return out.to(q.dtype)

    def sent_numbers(self, batch: int, heads: int, head_dim: int) -> int:
        """Return how many numbers this rank sends in one layer."""
        successor = (self._index + 1) % len(self._keys)
        return 2 * batch * heads * head_dim * (sum(self._keys) - self._keys[successor])

    def _pass_on(self, held: Tensor, coming: Tensor) -> Exchange:
        after, before = ((self._index + step) % len(self._keys) for step in (1, -1))
        return self._group.begin([(after, held)], [(before, coming)])
