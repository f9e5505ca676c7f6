"""Sparse self-attention behind the seam: how a window's tokens are grouped, kept ones included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from longtake.caches import (
    Entry,
    FeatureCache,
    FeatureStore,
    FeatureTable,
    NextBlockKV,
    NoCache,
    SameStepKV,
    forwards,
)
from longtake.errors import ConfigurationError
from longtake.models.layers.groups import TokenGroups
from longtake.models.layers.kernel import attention_kernel
from longtake.plan.layout import Layout
from longtake.plan.search.decoders import with_co_attention
from longtake.schedulers import FifoQueue
from longtake.strategies.exchange import TokenShare, in_groups, split
from longtake.strategies.runtime.window_attention import WindowAttention
from longtake.task import Video

HEADS, DIM, LAYER = 2, 4, 3
SINGLE, RUNS = TokenGroups(4), TokenGroups(4, run=4)

kinds = pytest.mark.parametrize("groups", [SINGLE, RUNS], ids=["single", "runs"])


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def masked(q: Tensor, k: Tensor, v: Tensor, first: int, groups: TokenGroups) -> Tensor:
    """Attend with a mask; queries stand at ``first`` among the keys."""
    keys = groups.of(torch.arange(k.shape[1]))
    seen = keys[first : first + q.shape[1], None] == keys
    q, k, v = (operand.transpose(1, 2) for operand in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2)


def draw(tokens: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, tokens, HEADS, DIM, generator=generator)


@kinds
@pytest.mark.parametrize("tokens", [1, 3, 5, 15, 16, 37])
def test_groups_are_a_mask(groups: TokenGroups, tokens: int) -> None:
    """With any number of tokens: nothing is padded."""
    q, k, v = (draw(tokens, seed) for seed in range(3))
    members = split(groups, range(tokens), [[range(tokens)]])
    found = in_groups([attention_kernel for _ in members], members)(q, k, v)
    torch.testing.assert_close(found, masked(q, k, v, 0, groups), rtol=0, atol=1e-6)


def unmoved(keys: Tensor, shift: int) -> Tensor:
    raise AssertionError("a queue's keys stay where they are")


@kinds
@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV(), NoCache()], ids=repr)
@pytest.mark.parametrize("tokens_per_frame", [16, 6, 5])
def test_a_window_is_grouped_from_its_first_key(
    groups: TokenGroups, cache: FeatureCache, tokens_per_frame: int
) -> None:
    """Whichever of its keys are computed and whichever are kept."""
    store, table = FeatureStore(), FeatureTable()
    kept: dict[Entry, tuple[Tensor, Tensor]] = {}
    share, added = TokenShare.whole(HEADS), set[int]()
    for number, forward in enumerate(forwards(FifoQueue(3, 2).tasks(Video(11, 3)), cache)):
        window = forward.window
        attention = WindowAttention(
            window, tokens_per_frame, store, table, attention_kernel, share, unmoved
        )
        tokens = len(window.frames) * tokens_per_frame
        q, k, v = (draw(tokens, 3 * number + i) for i in range(3))
        found = attention.layer(LAYER, groups)(q, k, v)
        before, after = (
            [kept[read.entry] for read in reads]
            for reads in (window.reads_before, window.reads_after)
        )
        for entry in window.drops:
            del kept[entry]
        for entry, _ in window.keeps:
            first = window.frames.index(entry.frame) * tokens_per_frame
            mine = slice(first, first + tokens_per_frame)
            kept[entry] = k[:, mine], v[:, mine]
        every = zip(*before, (k, v), *after, strict=True)
        keys, values = (torch.cat(parts, 1) for parts in every)
        expected = masked(q, keys, values, len(before) * tokens_per_frame, groups)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        added.add(keys.shape[1] - tokens)
    context = {0} if isinstance(cache, NoCache) else {0, 2 * tokens_per_frame}
    assert added >= context, "no window has read anything"


@kinds
@pytest.mark.parametrize("tokens_per_frame", [16, 220, 12, 6, 15])
def test_where_a_window_begins_changes_its_groups_only_at_odd_sizes(
    groups: TokenGroups, tokens_per_frame: int
) -> None:
    """The groups are the full video's where a frame has a multiple of 4 tokens.

    It has at every size that the model allows, which are multiples of 32 pixels.
    """
    places = torch.arange(5 * tokens_per_frame)
    same = []
    for first in range(1, 9):
        here, video = groups.of(places), groups.of(places + first * tokens_per_frame)
        same.append(torch.equal(here[:, None] == here, video[:, None] == video))
    allowed = tokens_per_frame % 4 == 0
    assert all(same) == (allowed or groups == SINGLE)


def test_decode_ranks_do_not_attend_groups() -> None:
    """They expect one call of the kernel per layer, all of one shape."""
    layout = replace(Layout.serial(LAYER, 2), decoders=1)
    assert with_co_attention(layout, text_in_attention=False).aco
    with pytest.raises(ConfigurationError, match="aco is true, but in some of the model's layers"):
        with_co_attention(layout, text_in_attention=False, sparse=True)
