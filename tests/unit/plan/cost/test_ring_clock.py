"""The ring clock says what the simulation of all actions says, for every layout."""

from __future__ import annotations

from dataclasses import replace

import pytest

from longtake.caches import FeatureCache, NextBlockKV, NoCache, RollingKV, SameStepKV
from longtake.plan.cost.ring_clock import RingClock
from longtake.plan.cost.simulator import simulate
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
from longtake.strategies import DualParal, SingleDevice
from longtake.testing.tiny.base import TinyCase

WORKLOAD = replace(TinyCase(steps=5, latent_frames=31).workload, tiles=2)
"""Its messages and its decoding take about as long as its computing."""
SCHEDULE = DualParal().actions
EVERY = Asked(ring=None, ulysses=None)


def compare(workload: Workload, devices: int, decoders: int = 0, *, tiled: bool = True) -> None:
    clock = RingClock(workload, SCHEDULE)
    for one in candidates(devices - decoders, workload, EVERY):
        layout = replace(one, decoders=decoders, tiled=decoders > 1 and tiled)
        found, played = clock(layout), simulate(layout, workload, SCHEDULE)
        near = 1e-9 if layout.sequence == 1 else 1e-2  # the last of those that share tokens
        assert found.makespan == pytest.approx(played.makespan, rel=near), layout
        assert found.first_block == pytest.approx(played.first_block, rel=1e-9), layout
        assert found.busy == pytest.approx(played.busy, rel=1e-9), layout
        assert found.exchanged_bytes == pytest.approx(played.exchanged_bytes, rel=1e-9), layout
        links = {link: size for link, size in played.link_bytes.items() if size}
        assert found.link_bytes == links, layout


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_all_layouts_of_a_queue(devices: int) -> None:
    compare(WORKLOAD, devices)


@pytest.mark.parametrize("decoders", [1, 2])
def test_with_decode_ranks(decoders: int) -> None:
    compare(WORKLOAD, 2 + decoders, decoders)


@pytest.mark.parametrize(("devices", "decoders"), [(1, 0), (2, 0), (4, 2)])
def test_several_videos(devices: int, decoders: int) -> None:
    compare(replace(WORKLOAD, requests=3, latent_frames=14), devices, decoders, tiled=False)


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
    compare(replace(WORKLOAD, hardware=slow, requests=2, latent_frames=15), 4, 1)


def test_links_between_nodes_are_slower() -> None:
    nodes = replace(WORKLOAD.hardware, node_size=2, node_bandwidth=1e7, node_latency=2e-3)
    compare(replace(WORKLOAD, hardware=nodes), 4)


def test_one_device_alone() -> None:
    alone = SingleDevice()
    layout = Layout.serial(WORKLOAD.spec.layers, WORKLOAD.branches)
    played = simulate(layout, WORKLOAD, alone.actions)
    assert alone.clock(WORKLOAD)(layout).makespan == pytest.approx(played.makespan, rel=1e-9)
