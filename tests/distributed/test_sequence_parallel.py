"""Sequence parallelism against the serial run, alone and inside a pipeline."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
from longtake.comm.bandwidth import Links, measure_links
from longtake.models import Grid, Operand
from longtake.models.layers.kernel import attention_kernel, made
from longtake.plan.devices import Hardware
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.search.layouts import choose_chunks
from longtake.schedulers import FullSequence
from longtake.strategies import (
    BlockDone,
    Communicator,
    DualParal,
    ParallelStrategy,
    SequenceParallel,
    SingleDevice,
)
from longtake.task import FrameRange
from longtake.testing.contracts import ParallelStrategyContract
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import (
    CHANNELS,
    TINY_HARDWARE,
    TinyCase,
    tiny_denoising,
    tiny_prompts,
    tiny_wan_backbone,
)
from longtake.testing.window import Run

SCHEDULE = SequenceParallel().actions
CLOCK = SequenceParallel().clock

ROUNDING = 1e-5
"""Shares of tokens and heads change operand shapes, and a ring the order of summing; a few steps
with guidance amplify what is last-bit rounding in a layer."""


THIRDS = [slice(first, None, 3) for first in range(3)]
"""Of the cases, for suites whose ways of splitting have suites of their own with all of them."""


class Split(ParallelStrategyContract):
    """Two heads, windows of an odd number of latent frames: nothing divides."""

    tolerance = ROUNDING
    impossible: ClassVar[tuple[int, ...]] = (0, 7)


class TestUlysses2(Split):
    world_size = 2

    def strategy(self) -> ParallelStrategy:
        return SequenceParallel(ulysses=2, ring=1, cfg=1)


class TestUlyssesInChunks(Split):
    world_size = 2
    part = THIRDS[0]

    def strategy(self) -> ParallelStrategy:
        return SequenceParallel(ulysses=2, ring=1, cfg=1, overlap=2)


class TestRing3(Split):
    world_size = 3

    def strategy(self) -> ParallelStrategy:
        return SequenceParallel(ulysses=1, ring=3, cfg=1)


class TestUsp(Split):
    world_size = 4
    part = THIRDS[1]

    def strategy(self) -> ParallelStrategy:
        return SequenceParallel(ulysses=2, ring=2, cfg=1)


class TestCfgTimesUlysses(Split):
    world_size = 4
    part = THIRDS[2]
    refused = ("no-guidance",)

    def strategy(self) -> ParallelStrategy:
        return SequenceParallel(ulysses=2, ring=1, cfg=2)


class TestStagesTimesUlysses(Split):
    world_size = 4

    def strategy(self) -> ParallelStrategy:
        return DualParal(stages=2, ulysses=2, cfg=1, guidance="together")


class TestStagesTimesRing(Split):
    world_size = 4
    part = THIRDS[0]

    def strategy(self) -> ParallelStrategy:
        return DualParal(stages=2, ring=2, cfg=1, guidance="together")


CACHES: dict[str, FeatureCache] = {
    "next": NextBlockKV(),
    "same": SameStepKV(),
    "none": NoCache(),
}


@cache
def serial(case: TinyCase) -> list[Tensor]:
    return blocks(Communicator.alone(), SingleDevice(), case)


@torch.no_grad()
def blocks(communicator: Communicator, strategy: ParallelStrategy, case: TinyCase) -> list[Tensor]:
    """Return what the output rank makes."""
    layout = strategy.layout(communicator.world_size, case.workload)
    work = tiny_denoising(case, layout.layers(communicator.rank), communicator)
    events = strategy.run(work, layout, communicator.rank)
    return [event.latents for event in events if isinstance(event, BlockDone)]


@pytest.mark.parametrize("name", CACHES)
@pytest.mark.parametrize(
    ("heads", "ulysses", "ring", "cfg", "overlap"),
    [
        (3, 2, 1, 1, 1),
        (5, 2, 1, 1, 2),
        (5, 3, 1, 1, 1),
        (3, 1, 3, 1, 1),
        (5, 4, 1, 1, 2),
        (3, 2, 2, 1, 1),
        (5, 2, 1, 2, 2),
        (3, 1, 2, 2, 1),
    ],
)
def test_heads_and_tokens_that_do_not_divide(
    heads: int, ulysses: int, ring: int, cfg: int, overlap: int, name: str
) -> None:
    # 6 tokens a frame in windows of 3, 5, 7 or 8 frames: 4 ranks divide one of them, 3 all.
    strategy = SequenceParallel(ulysses, ring, cfg, overlap)
    for scale in (5.0, 1.0)[: 2 if cfg == 1 else 1]:
        case = TinyCase(heads=heads, cache=CACHES[name], scales=(scale,), latent_frames=10)
        made = rank_pool(ulysses * ring * cfg).run(blocks, strategy, case)[0]
        for found, expected in zip(made, serial(case), strict=True):
            assert (found - expected).abs().max() <= ROUNDING * expected.abs().max()


@pytest.mark.parametrize(("heads", "ranks"), [(3, 2), (3, 3), (5, 2), (5, 3)])
def test_a_clip_with_heads_and_tokens_that_do_not_divide(heads: int, ranks: int) -> None:
    case = TinyCase(heads=heads, scheduler=FullSequence(), latent_frames=3 + ranks)
    for overlap in (1, 2):
        strategy = SequenceParallel(ranks, 1, 1, overlap)
        (found,) = rank_pool(ranks).run(blocks, strategy, case)[0]
        (expected,) = serial(case)
        assert (found - expected).abs().max() <= ROUNDING * expected.abs().max()


def test_chunks_change_nothing_but_rounding() -> None:
    """Every head is computed as it is without chunks, but beside fewer others."""
    case = TinyCase(heads=5)
    plain, *chunked = (
        rank_pool(2).run(blocks, SequenceParallel(2, 1, 1, overlap), case)[0]
        for overlap in (1, 2, 4)
    )
    for found in chunked:
        for a, b in zip(found, plain, strict=True):
            assert (a - b).abs().max() <= ROUNDING * b.abs().max()


def chunks_on(hardware: Hardware) -> int:
    """Return how many chunks are chosen for a long clip on two devices."""
    case = TinyCase(heads=8, scheduler=FullSequence(), latent_frames=200)
    layout = Layout(mesh=Mesh(ulysses=2), stages=(range(4),), batches=(range(2),))
    return choose_chunks(layout, replace(case.workload, hardware=hardware), CLOCK).chunks


def test_chunks_are_taken_where_they_are_predicted_to_win() -> None:
    slow = replace(TINY_HARDWARE, bandwidth=1e8)
    assert chunks_on(slow) > 1, "an exchange that takes long, and hides"
    assert chunks_on(replace(slow, hiding=0.0)) == 1, "cores that compute also transfer"
    assert chunks_on(replace(slow, latency=1.0)) == 1, "more messages cost more"
    assert chunks_on(replace(slow, bandwidth=1e13)) == 1, "nothing to hide"
    alone = Layout.serial(4, 2)
    assert choose_chunks(alone, TinyCase().workload, CLOCK) == alone


def links_of_one_rank(communicator: Communicator, layout: Layout) -> Links:
    ranks = layout.ulysses_ranks(communicator.rank)
    return measure_links(ranks, layout.groups, communicator)


def connected(communicator: Communicator) -> Layout:
    """Return a rank's layout after the links were measured."""
    strategy, workload = (
        SequenceParallel(ulysses=2, cfg=1, overlap="auto"),
        TinyCase(heads=5).workload,
    )
    return strategy.connected(
        strategy.layout(communicator.world_size, workload), workload, communicator
    )


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_agree_on_what_they_measured(ranks: int) -> None:
    mesh = Mesh(ring=ranks // 2, ulysses=2)
    layout = Layout(mesh=mesh, stages=(range(4),), batches=(range(2),))
    found = rank_pool(ranks).run(links_of_one_rank, layout)
    assert len(set(found)) == 1
    assert found[0].bandwidth > 0
    assert found[0].latency >= 0
    assert 0 <= found[0].hiding <= 1
    chosen = set(rank_pool(ranks).run(connected))
    assert len(chosen) == 1, "the ranks would wait for one another"


def test_a_given_number_of_chunks_is_kept() -> None:
    strategy, workload = SequenceParallel(ulysses=2, ring=1, cfg=1, overlap=3), TinyCase().workload
    layout = strategy.layout(2, workload)
    assert layout.chunks == 3
    # Nobody to measure with: an attempt would fail.
    assert strategy.connected(layout, workload, Communicator.alone()) == layout


@torch.no_grad()
def test_wan_projects_values_keys_and_queries_when_they_are_asked_for() -> None:
    grid = Grid.of(FrameRange(0, 3), height=4, width=6)
    run = Run(tiny_wan_backbone(), grid, 500.0, tiny_prompts(1))
    hidden = run.embed(torch.randn(1, CHANNELS, 3, 4, 6))
    late: list[bool] = []

    def attend(q: Operand, k: Operand, v: Operand) -> Tensor:
        late.extend(callable(operand) for operand in (q, k, v))
        return attention_kernel(made(q), made(k), made(v))

    assert torch.equal(run.layer(0, hidden, attend), run.layer(0, hidden))
    assert late == [True, True, True]
