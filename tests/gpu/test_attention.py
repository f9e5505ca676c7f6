"""Attention with its log-sum-exp, in parts that are merged, against one kernel call."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from longtake.strategies.exchange.log_sum_exp import attention_with_lse, merge

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(("queries", "keys"), [(1536, 2048), (1000, 1537), (33, 7), (1, 1)])
def test_merged_parts_are_attention_to_all_keys(queries: int, keys: int) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(2, count, 4, 128, device="cuda", dtype=torch.bfloat16, generator=generator)
        for count in (queries, keys, keys)
    )
    cuts = sorted({0, keys // 3, keys})
    out: torch.Tensor | None = None
    lse = q.new_empty(0)
    for start, stop in pairwise(cuts):
        part, part_lse = attention_with_lse(q, k[:, start:stop], v[:, start:stop])
        out, lse = (part, part_lse) if out is None else merge(out, lse, part, part_lse)
    assert out is not None
    heads_first = [one.transpose(1, 2) for one in (q, k, v)]
    whole = scaled_dot_product_attention(heads_first[0], heads_first[1], heads_first[2])
    torch.testing.assert_close(out.float(), whole.transpose(1, 2).float(), rtol=0, atol=1e-2)
