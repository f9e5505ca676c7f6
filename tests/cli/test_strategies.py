"""``longtake strategies``: every strategy, what it divides, and its options."""

from __future__ import annotations

import json

import pytest
from typing_extensions import override

import longtake.strategies
from longtake.framework.console.strategies_report import row_of, strategies
from longtake.framework.main import main
from longtake.strategies import Layout, ParallelStrategy, Workload


def test_every_strategy_is_listed_with_what_it_divides(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["strategies", "--format", "json"])
    assert ended.value.code == 0
    rows = {row["strategy"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {"Automatic", "DualParal", "SequenceParallel", "SingleDevice"}
    assert all(row["divides"] and row["for"] and row["video"] for row in rows.values())
    assert rows["SingleDevice"]["options"] == "decode_devices: 0, aco: false, data: 1"
    assert rows["DualParal"]["options"].startswith("stages: auto, cfg: auto, guidance: auto")
    names = {one.__name__ for one in strategies()}
    assert names - set(longtake.strategies.__all__) == {"Automatic"}


class Own(ParallelStrategy):
    """A plug-in that says nothing of itself."""

    @override
    def layout(self, world_size: int, workload: Workload) -> Layout:
        return Layout.serial(workload.spec.layers, workload.branches)


def test_one_that_says_nothing_of_itself_can_be_listed() -> None:
    row = row_of(Own)
    assert row["strategy"] == "Own"
    assert row["divides"] is None
