"""Sequence exchange: a rank's share of a stage's tokens and heads, and how it is exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, final

import torch
from torch import Tensor

from longtake.comm.communicator import Communicator
from longtake.models import Kernel, Operand
from longtake.models.layers.attention_kernel import AttentionKernel
from longtake.models.layers.kernel import made, without_padding
from longtake.plan.layout import Layout
from longtake.strategies.exchange.groups import Group, in_groups
from longtake.strategies.exchange.log_sum_exp import attention_with_lse
from longtake.strategies.exchange.ring import RingKernel
from longtake.strategies.exchange.shares import overlap, shares
from longtake.strategies.exchange.ulysses import Extend, Ulysses


@final
class TokenShare:
    """Which tokens and heads of a stage are this rank's.

    A window's tokens are divided evenly among the ``ring * ulysses`` ranks of the stage, in the
    order of time. During attention a rank has all tokens of its ring coordinate for some heads.

    Args:
        ranks: The ranks that share the tokens, in the order of the tokens; ring is the outer axis.
        index: This rank's place among them.
        ulysses: Degree of the Ulysses axis.
        heads: Attention heads of the model.
        communicator: The ranks of the run, their groups made.
        chunks: See ``Ulysses``.
    """

    def __init__(
        self,
        ranks: tuple[int, ...],
        index: int,
        ulysses: int,
        heads: int,
        communicator: Communicator,
        chunks: int = 1,
    ) -> None:
        self.size, self.index = len(ranks), index
        self._ranks = ranks
        self._ulysses = ulysses
        self._ring = len(ranks) // ulysses
        self.ring_index, self._ulysses_index = divmod(index, ulysses)
        self._ring_ranks = ranks[self._ulysses_index :: ulysses]
        self._ulysses_ranks = ranks[self.ring_index * ulysses :][:ulysses]
        self._heads = heads
        self._communicator = communicator
        self._chunks = chunks

    @classmethod
    def whole(cls, heads: int) -> Self:
        """Return the share of a rank that shares with nobody."""
        return cls((0,), 0, 1, heads, Communicator.alone())

    @classmethod
    def of(cls, layout: Layout, rank: int, heads: int, communicator: Communicator) -> Self:
        """Return a rank's share of its stage."""
        index = layout.sequence_index(rank)
        ranks = tuple(range(rank - index, rank - index + layout.sequence))
        return cls(ranks, index, layout.mesh.ulysses, heads, communicator, layout.chunks)

    @property
    def place(self) -> str:
        """Which tokens and heads of how many shares are this rank's during attention."""
        return f"ring{self.ring_index}of{self._ring}-heads{self._ulysses_index}of{self._ulysses}"

    def tokens(self, total: int) -> range:
        """Return this rank's tokens of a window of ``total`` tokens."""
        return shares(total, self.size)[self.index]

    def ring_tokens(self, total: int) -> list[range]:
        """Return the tokens of each ring coordinate during attention."""
        parts = shares(total, self.size)
        return [
            range(parts[first].start, parts[first + self._ulysses - 1].stop)
            for first in range(0, self.size, self._ulysses)
        ]

    def attend(
        self,
        q: Operand,
        k: Operand,
        v: Operand,
        *,
        total: int,
        keys: Sequence[int],
        padding: Sequence[Sequence[int]],
        extend: Extend,
        kernel: Kernel,
        groups: Sequence[Group] = (),
    ) -> Tensor:
        """Attend from this rank's tokens to the whole window and what the cache adds.

        Collective: all ranks that share the stage's tokens call it for the same layers in the
        same order.

        Args:
            q: Queries of this rank's tokens ``(B, S, N, D)``.
            k: Their keys.
            v: Their values.
            total: Tokens of the window.
            keys: Keys that each ring coordinate has after ``extend``.
            padding: How many of them, the last ones, no query may see: per row of the batch, or
                once for all rows.
            extend: Adds what the cache holds, for the tokens and heads of attention.
            kernel: The attention kernel of one device.
            groups: Of a sparse layer, which has no padding; empty: every query sees all keys.
        """
        if groups:
            kernel = in_groups([self._over_ring(kernel, group.counts) for group in groups], groups)
        else:
            seen = [
                [all_ - hidden for all_, hidden in zip(keys, row, strict=True)] for row in padding
            ]
            kernels = [self._over_ring(kernel, row) for row in seen]
            kernel = without_padding(kernels, [row[self.ring_index] for row in padding])
        if self._ulysses == 1:
            v, k, q = made(v), made(k), made(q)
            return kernel(q, *extend(k, v))
        parts = shares(total, self.size)
        first = self.ring_index * self._ulysses
        tokens = [len(part) for part in parts[first : first + self._ulysses]]
        group = self._communicator.group(self._ulysses_ranks)
        exchange = Ulysses(group, self._ulysses_index, tokens, self._heads, self._chunks)
        return exchange.attend(q, k, v, extend, kernel)

    def _over_ring(self, kernel: Kernel, keys: Sequence[int]) -> Kernel:
        """Return a kernel for keys of which each ring coordinate has some."""
        if self._ring == 1:
            return kernel
        # Its own log-sum-exp kernel: what a backend gives cannot be merged without one.
        with_lse = kernel.with_lse if isinstance(kernel, AttentionKernel) else attention_with_lse
        group = self._communicator.group(self._ring_ranks)
        return RingKernel(group, self.ring_index, keys, with_lse)

    def collect(self, hidden: Tensor, total: int, wanted: range) -> Tensor:
        """Return the hidden states of ``wanted`` tokens on the first rank, nothing on the others.

        Collective: all ranks that share the stage's tokens call it.

        Args:
            hidden: Of this rank's tokens, ``(B, S, M)``.
            total: Tokens of the window.
            wanted: Consecutive tokens of the window.
        """
        if self.size == 1:
            return hidden[:, wanted.start : wanted.stop]
        parts = [overlap(part, wanted) for part in shares(total, self.size)]
        mine, start = parts[self.index], self.tokens(total).start
        own = hidden[:, mine.start - start : mine.stop - start].contiguous()
        group = self._communicator.group(self._ranks)
        if self.index:
            group.begin([(0, own)], []).end()
            return hidden[:, :0]
        batch, _, dim = hidden.shape
        coming = [(rank, own.new_empty(batch, len(part), dim)) for rank, part in enumerate(parts)]
        group.begin([], coming[1:]).end()
        return torch.cat([own, *(piece for _, piece in coming[1:])], dim=1)
