"""Replicas of the mesh: who makes which requests, and how many replicas there may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from tests.unit.plan.cost.test_simulator import TOGETHER, layout_of, workload_of

from longtake.errors import ConfigurationError
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.search.replicas import (
    Division,
    Replicas,
    assign,
    best_division,
    replica_counts,
    request_seconds,
)
from longtake.strategies import DualParal


def test_the_longest_request_goes_first_to_whoever_has_the_least_to_do() -> None:
    found = assign({0: 3.0, 1: 9.0, 2: 5.0, 3: 3.0, 4: 7.0}, 2)
    # 9; 7; 5 behind 7; 3 behind 9; the last 3 behind either 12: the one with fewer requests, or 0.
    assert found == Replicas(((0, 1, 3), (2, 4)), (15.0, 12.0))
    assert found.makespan == 15.0


def test_equal_requests_are_dealt_out_in_the_order_of_their_numbers() -> None:
    assert assign(dict.fromkeys(range(5), 2.0), 2).shares == ((0, 2, 4), (1, 3))
    assert assign(dict.fromkeys(range(4), 0.0), 4).shares == ((0,), (1,), (2,), (3,))
    assert assign(dict.fromkeys((7, 3), 1.0), 1) == Replicas(((3, 7),), (2.0,))


def test_no_assignment_is_longer_than_that_of_a_list_may_be() -> None:
    """Graham's bound: nobody begins a request when another one has had nothing to do before."""
    seconds = {index: float(1 + 7 * index % 11) for index in range(13)}
    for count in range(1, 14):
        found = assign(seconds, count)
        assert sorted(sum(found.shares, ())) == list(range(13))
        assert all(found.shares), "none has nothing to make"
        assert found.makespan is not None
        most = sum(seconds.values()) / count + (1 - 1 / count) * max(seconds.values())
        assert found.makespan <= most


def test_a_long_request_takes_its_first_blocks_and_the_pace_after_them() -> None:
    layout, clock = layout_of(1, 2, TOGETHER), DualParal().clock
    short, long = workload_of(16 * 40, steps=4), workload_of(16 * 120, steps=4)
    exact = clock(long)(layout).makespan
    assert request_seconds(long, layout, clock) == pytest.approx(exact, rel=1e-6)
    assert request_seconds(short, layout, clock) == pytest.approx(clock(short)(layout).makespan)


def test_every_divisor_with_work_for_all_is_weighed() -> None:
    assert replica_counts("auto", 8, [False] * 5) == [1, 2, 4]
    assert replica_counts("auto", 6, [False] * 2) == [1, 2]
    assert replica_counts("auto", 4, [False, True]) == [1]
    assert replica_counts(2, 4, [True, True]) == [2], "each makes one that never ends"


@pytest.mark.parametrize(
    ("asked", "devices", "endless", "said"),
    [
        (3, 4, [False] * 5, "as many devices each; possible: 2 or 4."),
        (0, 4, [False] * 5, "at least 1, and have as many devices each; possible: 1 or 2."),
        (4, 8, [False] * 3, "but 1 replica would have nothing to make; possible: 1 or 2."),
        (2, 2, [False], "for 1 request, but 1 replica would have nothing to make; possible: 1."),
        (2, 2, [True, False, False], "1 request never ends, so what waits behind would"),
    ],
)
def test_impossible_numbers_are_refused_with_the_nearest(
    asked: int | Literal["auto"], devices: int, endless: list[bool], said: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        replica_counts(asked, devices, endless)
    assert f"trainer.strategy.data is {asked} on {devices} devices" in str(refused.value)
    assert said in str(refused.value)


def test_the_best_division_is_done_first_exact_and_of_few_replicas() -> None:
    stages = layout_of(1, 2, TOGETHER)
    shared = Layout(mesh=Mesh(ulysses=2), stages=(range(32),), batches=TOGETHER)

    def division(layout: Layout, count: int, seconds: float) -> Division:
        return Division(layout, Replicas(((),) * count, (seconds,) * count))

    slow, fast = division(stages, 1, 10.0), division(stages, 2, 6.0)
    assert best_division([slow, fast]) is fast
    assert best_division([division(stages, 1, 6.1), fast]).replicas.count == 1
    assert best_division([division(shared, 1, 6.0), fast]) is fast, "of as fast ones the exact one"
    unknown = Division(stages, replace(fast.replicas, seconds=()))
    assert best_division([slow, unknown]) is slow, "what cannot be weighed is not chosen"
