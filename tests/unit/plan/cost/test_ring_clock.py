"""The ring clock says what the simulation of all actions says, for every layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from longtake.caches import FeatureCache, Forward, NextBlockKV, NoCache, RollingKV, SameStepKV
from longtake.plan.cost.ring_clock import ring_time, rundown
from longtake.plan.cost.simulator import simulate
from longtake.plan.ir.actions import Action
from longtake.plan.layout import Layout
from longtake.plan.search.layouts import candidates
from longtake.plan.search.meshes import Asked
from longtake.plan.workload import Workload
from longtake.schedulers import (
    Autoregressive,
    BlockScheduler,
    ContextWindows,
    FifoQueue,
    FullSequence,
)
from longtake.strategies.dual_paral import ring_schedule
from longtake.testing.tiny.base import TinyCase

WORKLOAD = replace(TinyCase(steps=5, latent_frames=31).workload, tiles=2)
"""Its messages and its decoding take about as long as its computing."""


def schedule(
    forwards: Iterable[Forward], request: int, layout: Layout, rank: int
) -> Iterator[Action]:
    return ring_schedule(forwards, layout, rank)


def compare(workload: Workload, devices: int, decoders: int = 0) -> None:
    tasks = rundown(workload)
    every = list(candidates(devices - decoders, workload, Asked(ring=None, ulysses=None)))
    for one in every:
        layout = replace(one, decoders=decoders, tiled=decoders > 1)
        found, played = ring_time(layout, workload, tasks), simulate(layout, workload, schedule)
        assert found.makespan == pytest.approx(played.makespan, rel=0.01), layout
        assert found.first_block == pytest.approx(played.first_block, rel=0.01), layout
        assert found.idle == pytest.approx(played.idle, abs=0.01), layout
        sent = sum(played.sent_bytes) + sum(played.exchanged_bytes)
        assert found.sent == pytest.approx(sent, rel=0.05, abs=1), layout


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_all_layouts_of_a_queue(devices: int) -> None:
    compare(WORKLOAD, devices)


@pytest.mark.parametrize("decoders", [1, 2])
def test_with_decode_ranks(decoders: int) -> None:
    compare(WORKLOAD, 2 + decoders, decoders)


@pytest.mark.parametrize(
    ("scheduler", "cache"),
    [
        (FifoQueue(4, 2), NoCache()),
        (FifoQueue(4, 2), SameStepKV()),
        (FifoQueue(4, 2, stride=2), NextBlockKV()),
        (FullSequence(), NoCache()),
        (ContextWindows(), NoCache()),
        (Autoregressive(3), RollingKV(6)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_other_methods(scheduler: BlockScheduler, cache: FeatureCache) -> None:
    compare(replace(WORKLOAD, scheduler=scheduler, cache=cache), 2)


def test_slow_links_are_waited_for_alike() -> None:
    slow = replace(WORKLOAD.hardware, bandwidth=1e7, latency=1e-3)
    compare(replace(WORKLOAD, hardware=slow), 4)
