"""Open-Sora-Plan's attention: projections, rotary positions, and the published masked kernel."""

from __future__ import annotations

from typing import final

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from longtake.models.base import Rotary
from longtake.models.layers.groups import TokenGroups

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, each ``(B, S, N, D)``."""
MASKED = -10_000.0
"""What is added to the scores of a masked key."""
_PADDED = -9_980.0
"""What is added to the scores of a key that fills the last group up."""


@final
class Projections(nn.Module):
    """Queries, keys, values and output of one attention; the kernel is the caller's.

    Args:
        dim: Size of a hidden state ``M``.
        heads: Heads ``N``.
        bias: Whether queries, keys and values have one.
    """

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self._heads = heads
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_k = nn.Linear(dim, dim, bias=bias)
        self.to_v = nn.Linear(dim, dim, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def query(self, x: Tensor) -> Tensor:
        """Return queries ``(B, S, N, D)`` of ``(B, S, M)``."""
        query: Tensor = self.to_q(x).unflatten(2, (self._heads, -1))
        return query

    def key_value(self, x: Tensor) -> KeyValue:
        """Return keys and values of ``(B, S, M)``."""
        heads = (self._heads, -1)
        return self.to_k(x).unflatten(2, heads), self.to_v(x).unflatten(2, heads)

    def output(self, x_BSND: Tensor) -> Tensor:
        """Project what the kernel gives to ``(B, S, M)``."""
        out: Tensor = self.to_out[0](x_BSND.flatten(2))
        return out


def rotate_halves(x_BSND: Tensor, rotary: Rotary) -> Tensor:
    """Apply rotary positions to queries or keys ``(B, S, N, D)``.

    Each axis has a third of a head's channels, whose first half is paired with the second.
    """
    cos, sin = (rearrange(part, "b s n (third d) -> b s n third d", third=3) for part in rotary)
    first, second = rearrange(x_BSND, "b s n (third half d) -> half b s n third d", third=3, half=2)
    rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-2)
    return rotated.flatten(-3).to(x_BSND.dtype)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attend, all operands ``(B, S, N, D)``, with ``bias`` ``(B, S)`` on the scores of the keys."""
    q, k, v = (operand.transpose(1, 2) for operand in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, bias[:, None, None]).transpose(1, 2)


def sparse_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, groups: TokenGroups) -> Tensor:
    """Attend in groups, as the published model does: tokens padded, groups as rows of the batch.

    Runs behind the ``attend`` seam do not pad: there, groups are gathered.

    Args:
        q: Queries ``(B, S, N, D)`` of all tokens of a clip.
        k: Keys.
        v: Values.
        bias: On the scores of the keys, ``(B, S)``.
        groups: Of the layer.
    """
    tokens, count = q.shape[1], groups.count
    pad = -tokens % count**2  # for runs of one token as well
    pattern = "b (turn group run) ... -> (b group) (turn run) ..."
    sizes = {"group": count, "run": groups.run}
    operands = (F.pad(operand, (0, 0, 0, 0, 0, pad)) for operand in (q, k, v))
    q, k, v = (rearrange(operand, pattern, **sizes) for operand in operands)
    bias = rearrange(F.pad(bias, (0, pad), value=_PADDED), pattern, **sizes)
    out = rearrange(
        masked_attention(q, k, v, bias),
        "(b group) (turn run) n d -> b (turn group run) n d",
        **sizes,
    )
    return out[:, :tokens]
