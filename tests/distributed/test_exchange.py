"""Exchanges of tokens, heads, keys and values, against attention on one device."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from longtake.comm.rank_group import BatchedGroup, RankGroup
from longtake.models import Operand
from longtake.models.layers.kernel import attention_kernel
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.strategies import Communicator
from longtake.strategies.exchange import RingKernel, TokenShare, Ulysses, overlap, shares
from longtake.testing.ranks import rank_pool

DIM, BATCH = 8, 2


def operands(tokens: int, heads: int, seed: int = 0) -> list[Tensor]:
    """Draw queries, keys and values in float64: a share of the heads may be rounded otherwise."""
    generator = torch.Generator().manual_seed(seed)
    shape = (BATCH, tokens, heads, DIM)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def own(tensor: Tensor, part: range) -> Tensor:
    return tensor[:, part.start : part.stop]


def world_group() -> RankGroup:
    group = dist.group.WORLD
    assert group is not None
    return BatchedGroup(group)


def ulysses_of_one_rank(
    communicator: Communicator, tokens: int, heads: int, chunks: int, cached: int
) -> tuple[Tensor, int]:
    """Return this rank's result, and how many numbers it sent by its own count."""
    parts = shares(tokens, communicator.world_size)
    mine, my_heads = (
        parts[communicator.rank],
        shares(heads, communicator.world_size)[communicator.rank],
    )
    group = world_group()
    exchange = Ulysses(group, communicator.rank, [len(part) for part in parts], heads, chunks)
    _, more_k, more_v = (
        t[:, :, my_heads.start : my_heads.stop] for t in operands(cached, heads, seed=1)
    )

    def extend(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat((k, more_k), dim=1), torch.cat((v, more_v), dim=1)

    q, k, v = (own(tensor, mine) for tensor in operands(tokens, heads))
    out = exchange.attend(q, k, v, extend, attention_kernel)
    return out, exchange.sent_numbers(BATCH, DIM)


def under_way_when_made(communicator: Communicator, chunks: int) -> list[tuple[str, int]]:
    """Return how many exchanges had begun when values, keys and queries were made."""
    group, begin, made = world_group(), dist.batch_isend_irecv, []
    begun = 0

    def counting(messages: list[Any]) -> Any:
        nonlocal begun
        begun += 1
        return begin(messages)

    def late(name: str, tensor: Tensor) -> Operand:
        def make() -> Tensor:
            made.append((name, begun))
            return tensor

        return make

    operand = torch.ones(BATCH, 1, 4, DIM)
    q, k, v = (late(name, operand) for name in "qkv")
    exchange = Ulysses(group, communicator.rank, [1, 1], 4, chunks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "batch_isend_irecv", counting)
        exchange.attend(q, k, v, lambda k, v: (k, v), attention_kernel)
    assert begun == (2 if chunks == 1 else 3 + chunks)
    return made


def ring_of_one_rank(communicator: Communicator, tokens: int, keys: int, heads: int) -> Tensor:
    q, *_ = operands(tokens, heads)
    _, k, v = operands(keys, heads, seed=1)
    mine = shares(tokens, communicator.world_size)[communicator.rank]
    # Not evenly: the last rank holds most keys, and rank 0 none where there are few.
    bounds = [
        keys * rank**2 // communicator.world_size**2 for rank in range(communicator.world_size + 1)
    ]
    held = [range(*bound) for bound in pairwise(bounds)]
    group = world_group()
    kernel = RingKernel(group, communicator.rank, [len(part) for part in held])
    return kernel(own(q, mine), own(k, held[communicator.rank]), own(v, held[communicator.rank]))


def assert_close(found: Tensor, expected: Tensor) -> None:
    # Each row is a sum over keys: only its order, or where it is cut, differs.
    assert found.shape == expected.shape
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_ulysses_with_uneven_tokens_and_heads(degree: int) -> None:
    for tokens, heads, chunks, cached in product((17, 2), (5, degree), (1, 2), (0, 3)):
        q, k, v = operands(tokens, heads)
        _, more_k, more_v = operands(cached, heads, seed=1)
        expected = attention_kernel(q, torch.cat((k, more_k), 1), torch.cat((v, more_v), 1))
        ranks = rank_pool(degree).run(ulysses_of_one_rank, tokens, heads, chunks, cached)
        assert_close(torch.cat([out for out, _ in ranks], dim=1), expected)


@pytest.mark.parametrize(("chunks", "begun"), [(1, (0, 0, 0)), (2, (0, 1, 2))])
def test_in_chunks_values_travel_while_keys_are_projected(
    chunks: int, begun: tuple[int, ...]
) -> None:
    for made in rank_pool(2).run(under_way_when_made, chunks):
        assert made == list(zip("vkq", begun, strict=True))


@pytest.mark.parametrize("degree", [2, 3, 4])
def test_ring_with_uneven_tokens_and_keys(degree: int) -> None:
    for tokens, keys in product((17, 2), (23, 3)):
        q, *_ = operands(tokens, 3)
        _, k, v = operands(keys, 3, seed=1)
        ranks = rank_pool(degree).run(ring_of_one_rank, tokens, keys, 3)
        assert_close(torch.cat(ranks, dim=1), attention_kernel(q, k, v))


def share_of_one_rank(
    communicator: Communicator, ulysses: int, tokens: int, padding: list[int], filling: float
) -> Tensor:
    """Return this rank's result where the last keys of each row are padding."""
    mesh = Mesh(ring=communicator.world_size // ulysses, ulysses=ulysses)
    layout = Layout(mesh=mesh, stages=(range(1),), batches=(range(BATCH),))
    communicator.make_groups(layout.groups)
    share = TokenShare.of(layout, communicator.rank, 5, communicator)
    q, k, v = operands(tokens, 5)
    for row, count in enumerate(padding):
        k[row, tokens - count :] = filling
        v[row, tokens - count :] = filling
    mine, ring = share.tokens(tokens), share.ring_tokens(tokens)
    hidden = [
        [len(overlap(part, range(tokens - count, tokens))) for part in ring] for count in padding
    ]
    return share.attend(
        *(own(tensor, mine) for tensor in (q, k, v)),
        total=tokens,
        keys=[len(part) for part in ring],
        padding=hidden,
        extend=lambda k, v: (k, v),
        kernel=attention_kernel,
    )


@pytest.mark.parametrize(("ulysses", "degree"), [(2, 2), (3, 3), (1, 2), (1, 3), (2, 4)])
def test_padded_keys_are_seen_by_no_query_of_any_rank(ulysses: int, degree: int) -> None:
    tokens, padding = 17, [7, 0]  # more than the last rank's tokens: it has no key of row 0
    q, k, v = operands(tokens, 5)
    seen = [tokens - count for count in padding]
    rows = [attention_kernel(q[r:][:1], k[r:][:1, :n], v[r:][:1, :n]) for r, n in enumerate(seen)]
    for filling in (0.0, 1e4):
        arguments = (ulysses, tokens, padding, filling)
        found = torch.cat(rank_pool(degree).run(share_of_one_rank, *arguments), dim=1)
        assert_close(found, torch.cat(rows))


def sent_by_one_rank(
    communicator: Communicator, tokens: int, heads: int, chunks: int
) -> tuple[int, int]:
    """Return the numbers that really go to other ranks in a layer, and the exchange's own count."""
    sent = 0
    message = dist.P2POp

    def counting(way: Any, tensor: Tensor, **options: Any) -> Any:
        nonlocal sent
        sent += tensor.numel() if way is dist.isend else 0
        return message(way, tensor, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "P2POp", counting)
        _, count = ulysses_of_one_rank(communicator, tokens, heads, chunks, 0)
    return sent, count


@pytest.mark.parametrize(("tokens", "heads", "chunks"), [(32, 8, 1), (17, 5, 1), (17, 9, 2)])
def test_what_ulysses_sends_is_counted_and_as_little_as_published(
    tokens: int, heads: int, chunks: int
) -> None:
    degree = 4
    ranks = rank_pool(degree).run(sent_by_one_rank, tokens, heads, chunks)
    assert all(sent == count for sent, count in ranks)
    # xDiT's table: 4/P of tokens times hidden size per rank and layer; less what stays on a rank.
    hidden = tokens * heads * DIM * BATCH
    assert sum(sent for sent, _ in ranks) / degree <= 4 * hidden / degree
    if tokens % degree == heads % degree == 0:
        exact = 4 * hidden // degree * (degree - 1) // degree
        assert {sent for sent, _ in ranks} == {exact}


def test_shares_differ_by_at_most_one_and_lose_nothing() -> None:
    for total, parts in product(range(20), range(1, 7)):
        found = shares(total, parts)
        assert [token for part in found for token in part] == list(range(total))
        assert len(found) == parts
        assert max(map(len, found)) - min(map(len, found)) <= 1
