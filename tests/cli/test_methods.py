"""``longtake methods``: every scheduler, what it is for and what it costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints

import pytest
from typing_extensions import override

import longtake.schedulers
from longtake import plugins, tables
from longtake.framework.console.methods_report import Method, row_of, schedulers
from longtake.framework.main import main
from longtake.listings import show_listing
from longtake.plan.cost.methods import MethodCost
from longtake.schedulers import Autoregressive, BlockScheduler
from longtake.task import FrameRange, Task, Video


class Silent(BlockScheduler):
    """A plug-in that says nothing of itself."""

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        yield FrameRange(0, latent_frames or 1)

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        yield from ()

    @override
    def blocks_in_flight(self, video: Video) -> int:
        return 1


def test_every_scheduler_is_listed_with_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["methods", "--format", "json"])
    assert ended.value.code == 0
    rows = json.loads(capsys.readouterr().out)
    names = set(longtake.schedulers.__all__) - {"BlockScheduler", "MethodCard"}
    assert {row["scheduler"] for row in rows} == names
    assert all(row["purpose"] and row["models"] and row["devices"] for row in rows)
    (causal,) = (row for row in rows if row["method"] == "CausVid, Self-Forcing")
    assert causal["cache"] == "RollingKV"
    assert causal["noise"] == "Independent"
    assert causal["frames_passed_per_frame"] == 5.0  # 4 steps and a clean pass
    assert causal["frames_passed_before_first_block"] == 12
    assert causal["frames_held"] == 21
    assert (causal["memory"], causal["endless"]) == ("flat", "yes")
    (clip,) = (row for row in rows if row["scheduler"] == "FullSequence")
    assert (clip["memory"], clip["endless"]) == ("grows", "no")


def test_a_plug_in_is_listed_though_it_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("silent", f"{__name__}:Silent", "longtake.schedulers.v1")
    monkeypatch.setattr(plugins, "entry_points", lambda: EntryPoints([point]))
    assert "Silent" in [scheduler.__name__ for scheduler in schedulers()]
    assert row_of(Method(scheduler=Silent)) == {"scheduler": "Silent"}


def test_people_get_a_table_in_a_pipe_as_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_PIPE", 240)
    cost = MethodCost(
        passes=4.98,
        keys=20.3,
        widest=21,
        held=21,
        first=12,
        first_frames=3,
        flat=True,
        endless=True,
    )
    known = Method(scheduler=Autoregressive, card=Autoregressive.cards[0], cost=cost)
    show_listing("methods", [row_of(known), row_of(Method(scheduler=Silent))])
    shown = capsys.readouterr().out
    for words in (
        "Autoregressive, RollingKV, Independent",
        "5.0 passes per frame, each seeing 20",
        "first 3 after 12 passes",
        "window 21, held 21: flat",
        "Silent",
        "unknown",
    ):
        assert words in shown
