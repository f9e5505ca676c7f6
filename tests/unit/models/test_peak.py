"""Peak memory on the meta device: by hand, and as a real run's tensors."""

from __future__ import annotations

import torch
from torch.nn import functional

from longtake.models.peak import FusedAttention, PeakMemory

META = torch.device("meta")


def test_what_lives_at_the_same_time_is_counted_by_hand() -> None:
    given = torch.empty(1000, device=META)  # 4,000 bytes, which were there before
    with PeakMemory() as memory:
        first = given + 1  # 4,000
        second = first.view(10, 100) * 2  # 8,000: a view is no copy
        assert (memory.live, memory.peak) == (8_000, 8_000)
        del first
        assert (memory.live, memory.peak) == (4_000, 8_000)
        memory.begin()
        second = second.to(torch.bfloat16)  # 4,000 and 2,000 until the first is gone
        assert (memory.live, memory.peak) == (2_000, 6_000)
    assert second.shape == (10, 100)


def test_what_is_there_before_is_not_counted_through_views_or_in_place() -> None:
    given = torch.empty(1000, device=META)
    with PeakMemory() as memory:
        given.view(10, 100).t().add_(1)
    assert memory.peak == 0


def test_a_feed_forward_by_hand() -> None:
    states, inner = torch.empty(8, 100, device=META), torch.nn.Linear(100, 400, device=META)
    outer = torch.nn.Linear(400, 100, device=META)
    with torch.no_grad(), PeakMemory() as memory:
        outer(functional.relu(inner(states)))
    assert memory.peak == 2 * 8 * 400 * 4  # before and after the nonlinearity


def test_fused_attention_makes_no_matrix_of_queries_and_keys() -> None:
    q = torch.empty(1, 2, 1000, 8, device=META)
    with FusedAttention(), PeakMemory() as memory:
        result = functional.scaled_dot_product_attention(q, q, q)
    assert result.shape == q.shape
    assert memory.peak == q.nbytes
