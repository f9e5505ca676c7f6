"""Ulysses: ranks that hold some tokens of all heads exchange them for all tokens of some heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

from longtake.models import Attend
from longtake.strategies.exchange.shares import shares


@final
class Ulysses:
    """The exchange of one window among the ranks of a Ulysses group (DeepSpeed-Ulysses).

    Queries, keys and values travel in one fused message before attention and the result in one
    after it. Token and head counts need not divide the number of ranks: shares differ by at most
    one, and nothing is padded. ``sent_numbers`` is what a rank sends per layer.

    Args:
        group: The ranks, in the order of their tokens.
        index: This rank's place in it.
        tokens: Tokens of each rank.
        heads: Attention heads in all; at least as many as ranks.
        chunks: Parts in which a rank's heads are attended, the result of one travelling while the
            next is computed (PipeDiT's PipeSP, section 2.1, with chunks instead of single heads);
            1 is plain Ulysses.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        index: int,
        tokens: Sequence[int],
        heads: int,
        chunks: int = 1,
    ) -> None:
        self._group = group
        self._tokens = list(tokens)
        self._my_tokens = self._tokens[index]
        self._heads = shares(heads, len(self._tokens))
        self._my_heads = self._heads[index]
        # As many on every rank, or they would wait for one another.
        chunks = min(chunks, *map(len, self._heads))
        self._chunks = [shares(len(heads), chunks) for heads in self._heads]
        self._my_chunks = self._chunks[index]

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        extend: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        kernel: Attend,
    ) -> Tensor:
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
        q, k, v = self._to_heads(q, k, v)
        k, v = extend(k, v)
        under_way = []
        for number, chunk in enumerate(self._my_chunks):
            part = slice(chunk.start, chunk.stop)
            out = kernel(q[:, :, part], k[:, :, part], v[:, :, part])
            under_way.append(self._send_tokens(out, number))
        return self._receive_tokens(under_way, q)

    def sent_numbers(self, batch: int, head_dim: int) -> int:
        """Return how many numbers this rank sends to others in one layer."""
        others_heads = sum(map(len, self._heads)) - len(self._my_heads)
        others_tokens = sum(self._tokens) - self._my_tokens
        before = 3 * self._my_tokens * others_heads
        after = others_tokens * len(self._my_heads)
        return batch * head_dim * (before + after)

    def _to_heads(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Exchange tokens for heads: each ``(B, S_mine, N, D)`` to ``(B, S, N_mine, D)``."""
        fused = torch.stack(tensors)
        count, batch, _, _, dim = fused.shape
        parts = [fused[:, :, :, heads.start : heads.stop].reshape(-1) for heads in self._heads]
        sizes = [count * batch * tokens * len(self._my_heads) * dim for tokens in self._tokens]
        received, _ = self._exchange(parts, sizes)
        pieces = [
            piece.view(count, batch, tokens, len(self._my_heads), dim)
            for piece, tokens in zip(torch.split(received, sizes), self._tokens, strict=True)
        ]
        return torch.cat(pieces, dim=2).unbind()

    def _send_tokens(self, out: Tensor, number: int) -> tuple[Tensor, list[int], Any]:
        """Begin to give every rank the result of its tokens, of chunk ``number`` of the heads."""
        batch, _, _, dim = out.shape
        parts = [part.reshape(-1) for part in torch.split(out, self._tokens, dim=1)]
        sizes = [batch * self._my_tokens * len(c[number]) * dim for c in self._chunks]
        received, work = self._exchange(parts, sizes, async_op=True)
        return received, sizes, work

    def _receive_tokens(
        self, under_way: list[tuple[Tensor, list[int], Any]], like: Tensor
    ) -> Tensor:
        """Put the results together: heads of rank 0 chunk by chunk, of rank 1, ..."""
        batch, dim = like.shape[0], like.shape[3]
        by_chunk = []
        for number, (received, sizes, work) in enumerate(under_way):
            work.wait()
            heads = [len(chunks[number]) for chunks in self._chunks]
            by_chunk.append(
                [
                    piece.view(batch, self._my_tokens, count, dim)
                    for piece, count in zip(torch.split(received, sizes), heads, strict=True)
                ]
            )
        ranks = range(len(self._tokens))
        return torch.cat([pieces[rank] for rank in ranks for pieces in by_chunk], dim=2)

    def _exchange(
        self, parts: list[Tensor], sizes: list[int], *, async_op: bool = False
    ) -> tuple[Tensor, Any]:
        received = parts[0].new_empty(sum(sizes))
        sent = [len(part) for part in parts]
        work = dist.all_to_all_single(
            received, torch.cat(parts), sizes, sent, group=self._group, async_op=async_op
        )
        return received, work
