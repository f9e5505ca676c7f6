"""Ulysses: ranks that hold some tokens of all heads exchange them for all tokens of some heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, final

from torch import Tensor

from longtake.comm.all_to_all import AllToAll
from longtake.comm.rank_group import RankGroup
from longtake.models import Kernel, Operand
from longtake.models.layers.kernel import made
from longtake.strategies.exchange.shares import lined_up, shares

Extend: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Adds to keys and values what a feature cache holds."""


@final
class Ulysses:
    """The exchange of one window among the ranks of a Ulysses group (DeepSpeed-Ulysses).

    Queries, keys and values travel in one fused message before attention and the result in one
    after it. Token and head counts need not divide the number of ranks: shares differ by at most
    one, and nothing is padded. ``sent_numbers`` is what a rank sends per layer.

    In chunks (PipeDiT's PipeSP, section 2.1, with chunks instead of single heads) values, keys and
    queries travel one after another, each while the next is projected, and the result of a part of
    the heads while the next part is attended. No head sees another, so it is the same attention.

    Args:
        group: The ranks, in the order of their tokens.
        index: This rank's place in it.
        tokens: Tokens of each rank.
        heads: Attention heads in all; at least as many as ranks.
        chunks: Parts in which a rank's heads are attended; 1 is plain Ulysses.
    """

    def __init__(
        self,
        group: RankGroup,
        index: int,
        tokens: Sequence[int],
        heads: int,
        chunks: int = 1,
    ) -> None:
        self._group = group
        self._index = index
        self._tokens = lined_up(tokens)
        self._heads = shares(heads, len(tokens))
        self._overlaps = chunks > 1
        # As many on every rank, or they would wait for one another.
        chunks = min(chunks, *map(len, self._heads))
        self._chunks = [
            lined_up(map(len, shares(len(mine), chunks)), mine.start) for mine in self._heads
        ]

    def attend(self, q: Operand, k: Operand, v: Operand, extend: Extend, kernel: Kernel) -> Tensor:
        """Attend from this rank's tokens to all tokens.

        Collective: all ranks of the group call it for the same layers in the same order.

        Args:
            q: Queries of this rank's tokens, ``(B, S, N, D)``.
            k: Keys of this rank's tokens.
            v: Values of this rank's tokens.
            extend: Adds to keys and values what a cache holds, of this rank's heads.
            kernel: The attention kernel.

        Returns:
            ``(B, S, N, D)`` of this rank's tokens.
        """
        turns = [[v], [k], [q]] if self._overlaps else [[v, k, q]]
        begun = [self._begin_to_heads([made(operand) for operand in turn]) for turn in turns]
        for swap, _ in begun:
            swap.end()
        v_BSND, k_BSND, q_BSND = (tensor for _, tensors in begun for tensor in tensors)
        k_BSND, v_BSND = extend(k_BSND, v_BSND)
        tokens, heads = self._tokens[self._index], self._heads[self._index]
        batch, _, _, dim = q_BSND.shape
        result = q_BSND.new_empty(batch, len(tokens), self._heads[-1].stop, dim)
        swaps = []
        for number, chunk in enumerate(self._chunks[self._index]):
            part = slice(chunk.start - heads.start, chunk.stop - heads.start)
            out = kernel(q_BSND[:, :, part], k_BSND[:, :, part], v_BSND[:, :, part])
            swaps.append(self._begin_to_tokens(out, result, number))
        for swap in swaps:
            swap.end()
        return result

    def sent_numbers(self, batch: int, head_dim: int) -> int:
        """Return how many numbers this rank sends to others in one layer."""
        tokens, heads = len(self._tokens[self._index]), len(self._heads[self._index])
        before = 3 * tokens * (self._heads[-1].stop - heads)
        after = (self._tokens[-1].stop - tokens) * heads
        return batch * head_dim * (before + after)

    def _begin_to_heads(self, tensors: Sequence[Tensor]) -> tuple[AllToAll, list[Tensor]]:
        """Exchange tokens for heads: each ``(B, S_mine, N, D)`` for ``(B, S, N_mine, D)``."""
        given = [tensor.transpose(1, 2) for tensor in tensors]
        batch, _, _, dim = given[0].shape
        heads, total = self._heads[self._index], self._tokens[-1].stop
        # One head's tokens after another, which is how kernels like their keys best.
        taken = [tensor.new_empty(batch, len(heads), total, dim) for tensor in tensors]
        parts = [[tensor[:, h.start : h.stop] for tensor in given] for h in self._heads]
        places = [[tensor[:, :, s.start : s.stop] for tensor in taken] for s in self._tokens]
        swap = AllToAll.begin(self._group, self._index, parts, places)
        return swap, [tensor.transpose(1, 2) for tensor in taken]

    def _begin_to_tokens(self, out: Tensor, result: Tensor, number: int) -> AllToAll:
        """Exchange chunk ``number`` of the heads for tokens: of ``(B, S, chunk, D)``."""
        parts = [[out[:, tokens.start : tokens.stop]] for tokens in self._tokens]
        theirs = [chunks[number] for chunks in self._chunks]
        places = [[result[:, :, heads.start : heads.stop]] for heads in theirs]
        return AllToAll.begin(self._group, self._index, parts, places)
