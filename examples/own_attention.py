"""An attention kernel of one's own: exact attention that reads keys a few at a time.

In YAML, with the folder of this file in ``PYTHONPATH``::

    model:
      attention: {class_path: own_attention.ByChunks, init_args: {chunk: 1024}}
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.api import AttentionKernel, ConfigurationError


@final
class ByChunks(AttentionKernel):
    """Attend to ``chunk`` keys after another, with memory for as many scores only.

    Rabe and Staats 2021 (arXiv 2112.05682).

    Args:
        chunk: Keys at once.
    """

    merges = True

    def __init__(self, chunk: int = 1024) -> None:
        if chunk < 1:
            raise ConfigurationError(f"ByChunks cannot read {chunk} keys at once; the least is 1.")
        self.chunk = chunk

    @override
    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.with_lse(q, k, v)[0]

    @override
    def with_lse(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        queries = q.transpose(1, 2).float() * q.shape[-1] ** -0.5  # (B, N, S, D)
        most = queries.new_full((*queries.shape[:3], 1), -torch.inf)
        weight, out = torch.zeros_like(most), torch.zeros_like(queries)
        for keys, values in zip(_split(k, self.chunk), _split(v, self.chunk), strict=True):
            scores = queries @ keys.permute(0, 2, 3, 1).float()
            now = torch.maximum(most, scores.amax(-1, keepdim=True))
            shares, before = (scores - now).exp(), (most - now).exp()
            weight = weight * before + shares.sum(-1, keepdim=True)
            out = out * before + shares @ values.transpose(1, 2).float()
            most = now
        lse = most + weight.log()
        return (out / weight).transpose(1, 2).to(q.dtype), lse.transpose(1, 2)


def _split(tokens: Tensor, chunk: int) -> tuple[Tensor, ...]:
    return torch.split(tokens, chunk, dim=1)
