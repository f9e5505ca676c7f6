"""Nabla: sparse attention whose queries choose squares of keys by the mean of each square."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, final

import torch
from einops import reduce
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from longtake.models.base import Kernel
from longtake.task import Frames

SIDE: Final = 8
"""Tokens along the side of a square."""
_SQUARE: Final = SIDE * SIDE


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Nabla:
    """Which squares of keys the queries of a square see: those near it, and those it chooses.

    It chooses, of what a softmax over the squares' mean keys gives its mean query, as many of the
    largest as are needed for a share of the whole. Each head chooses for itself, among all tokens.

    Args:
        share: Of the softmax.
        reach: Along time, height and width: how many squares are near one, itself the middle.
    """

    share: float
    reach: tuple[int, int, int]

    def near(self, queries: Frames, keys: Frames, rows: int, columns: int) -> Tensor:
        """Return which squares are near which, ``(query squares, key squares)``.

        Args:
            queries: Positions along time of the frames of the queries.
            keys: Of those of the keys.
            rows: Squares of a frame, one above the other.
            columns: Side by side.
        """
        time, *plane = (size // 2 for size in self.reach)
        down, across = (
            _close(range(size), range(size), reach)
            for size, reach in zip((rows, columns), plane, strict=True)
        )
        return torch.kron(_close(queries, keys, time), torch.kron(down, across)).bool()

    def seen(self, q: Tensor, k: Tensor, near: Tensor) -> Tensor:
        """Return which squares of keys each square of queries sees.

        Args:
            q: Queries ``(B, S, N, D)``, square after square.
            k: Keys.
            near: Those that are seen in any case.

        Returns:
            ``(B, N, query squares, key squares)``.
        """
        q, k = (reduce(x, "b (s t) n d -> b n s d", "mean", t=_SQUARE) for x in (q, k))
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), dim=-1)
        values, order = weights.sort(dim=-1)
        enough = values.cumsum(dim=-1) >= 1 - self.share
        return enough.gather(-1, order.argsort(-1)) | near.to(q.device)

    def kernel(self, queries: Frames, keys: Frames, rows: int, columns: int) -> Kernel:
        """Return the kernel of a window, for tokens of all its frames and any heads.

        Args:
            queries: As for ``near``.
            keys: As for ``near``.
            rows: As for ``near``.
            columns: As for ``near``.
        """
        near = self.near(queries, keys, rows, columns)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend_squares(q, k, v, self.seen(q, k, near))

        return attend


def attend_squares(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attend from each square of queries to the squares of keys that it sees.

    Exact on every device. On CUDA by compiled flex attention, which skips the others; elsewhere
    they are masked, a square of queries at a time, which saves no work.

    Args:
        q: Queries ``(B, S, N, D)``, square after square.
        k: Keys.
        v: Values.
        seen: ``(B, N, query squares, key squares)``.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if q.is_cuda:
        out: Tensor = _flex()(q, k, v, block_mask=block_mask(seen))
        return out.transpose(1, 2)
    parts = []
    for square in range(seen.shape[2]):
        queries = q[:, :, square * _SQUARE : (square + 1) * _SQUARE]
        mask = seen[:, :, square : square + 1].repeat_interleave(_SQUARE, 3)
        parts.append(scaled_dot_product_attention(queries, k, v, attn_mask=mask))
    return torch.cat(parts, dim=2).transpose(1, 2)


@cache
def _flex() -> Callable[..., Any]:
    """Return flex attention, compiled: as it is it would make a matrix of all scores."""
    return torch.compile(flex_attention)


def block_mask(seen: Tensor) -> BlockMask:
    """Return what flex attention skips squares by."""
    counts = seen.sum(-1).to(torch.int32)
    order = seen.int().argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    none = torch.zeros_like(counts)  # of no square is a part seen

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return seen[row, head, query // _SQUARE, key // _SQUARE]

    # Compiled code skips by the squares alone; what is not compiled looks at no squares, but asks.
    return BlockMask.from_kv_blocks(none, order, counts, order, BLOCK_SIZE=_SQUARE, mask_mod=sees)


def _close(ones: Sequence[int], others: Sequence[int], reach: int) -> Tensor:
    return (torch.tensor(ones)[:, None] - torch.tensor(others)).abs().le(reach).int()
