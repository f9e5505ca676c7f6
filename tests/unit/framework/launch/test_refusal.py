"""Refusals: who prints them, and who gives the first rank time to."""

from __future__ import annotations

import sys
import time

import pytest

from longtake.framework.launch.meeting import Meeting
from longtake.framework.launch.refusal import PATIENCE, refuse, refuse_machine


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds that were waited, which are not."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def test_the_first_rank_prints_at_once(
    waited: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    refuse("no.", "LT-CONFIG")
    assert capsys.readouterr().err == "longtake: error: no. [LT-CONFIG]\n"
    assert waited == []


def test_another_rank_gives_the_first_one_time_and_prints_what_that_one_did_not_find(
    waited: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    refuse("no.", "LT-CONFIG")
    assert waited == [PATIENCE]
    assert capsys.readouterr().err == "longtake: error: no. [LT-CONFIG]\n"


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("predict", {"MASTER_ADDR": "127.0.0.1"}),
        ("predict", {"LOCAL_RANK": "1"}),
        ("predict", {"NODE_RANK": None}),
        ("plan", {}),
    ],
)
def test_ranks_of_one_machine_and_those_that_longtake_has_started_call_no_other_machine(
    command: str,
    missing: dict[str, str | None],
    monkeypatch: pytest.MonkeyPatch,
    waited: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    by_hand = {"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "29500", "NODE_RANK": "0"}
    for name, value in {**by_hand, **missing}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["longtake", command])
    called: list[Meeting] = []
    monkeypatch.setattr(Meeting, "call_off", lambda meeting: called.append(meeting))
    refuse("no.", "LT-CONFIG")
    assert called == []
    assert capsys.readouterr().err


def test_machines_of_a_run_that_was_started_by_hand_call_one_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand = {"MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "29500", "NODE_RANK": "1"}
    for name, value in by_hand.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["longtake", "predict"])
    called: list[Meeting] = []
    monkeypatch.setattr(Meeting, "call_off", lambda meeting: called.append(meeting))
    refuse("no.", "LT-CONFIG")
    assert [(one.host, one.port, one.rank) for one in called] == [("192.0.2.1", 29500, 1)]
    assert capsys.readouterr().err == "longtake: error: no. [LT-CONFIG]\n"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            PermissionError(13, "Permission denied", "a/b"),
            "refuses a file 'a/b': Permission denied.",
        ),
        (OSError(28, "No space left on device"), "refuses a file: No space left on device."),
        (MemoryError(), "needs more memory than there is."),
        (ValueError("a mistake of ours"), None),
    ],
)
def test_what_the_machine_refuses_is_a_sentence(
    error: Exception, sentence: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refuse_machine(error) == (sentence is not None)
    said = capsys.readouterr().err
    assert (sentence or "") in said
    assert bool(said) == (sentence is not None)
