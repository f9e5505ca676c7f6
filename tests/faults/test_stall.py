"""Stalled ranks: one stops without dying; the others end by themselves, name it, and the run goes
on.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from longtake.framework.exit_status import ExitStatus
from tests.faults.cases import Whole, content_of, left_in, options
from tests.faults.forked import Fault, run_forked
from tests.faults.test_signals import MIDST

STALL = 5.0
"""Seconds; a user's run waits for twice as long."""
PATIENCE = 90.0
"""Seconds: far more than three times as long, after which a rank that hangs in the store ends."""


@pytest.mark.parametrize(
    ("victim", "said"),
    [(0, MIDST), (1, "event=request_start request=1 "), (1, "2 ranks, connected by gloo")],
    ids=["first", "between-requests", "loading"],
)
def test_the_others_of_a_stalled_rank_end_and_name_it(
    victim: int, said: str, model: Path, whole: dict[str, Whole], tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    run = [*options(model, "queue", 2), "--output", str(out), "--resume", "auto"]
    run[run.index("none")] = "plain"
    fault = Fault(0.0, signal.SIGSTOP, victim, said)
    ended = run_forked(run, log, 2, fault, patience=PATIENCE, stall=STALL)
    assert ended.statuses[1 - victim] == ExitStatus.FAILED, ended.said
    assert ended.statuses[victim] == -signal.SIGKILL, "it is killed when the others have ended"
    silent = ("rank 0, which keeps the run's store, has not", "rank 1 gave no sign of life")
    assert silent[victim] in ended.said
    again = run_forked(run, log, 2)
    assert set(again.statuses) == {0}, again.said
    assert content_of(out) == whole["queue"].content
    assert not left_in(out)


def test_a_rank_that_is_stopped_before_it_comes_ends_the_run(model: Path, tmp_path: Path) -> None:
    """Torchrun and srun tell nobody; the other ranks of the machine look."""
    run = [*options(model, "queue", 2), "--output", str(tmp_path / "out")]
    fault = Fault(0.1, signal.SIGSTOP, 1)
    ended = run_forked(run, tmp_path / "log", 2, fault, patience=PATIENCE)
    assert ended.statuses == (ExitStatus.FAILED, -signal.SIGKILL), ended.said
    assert "another rank on this machine, was stopped (SIGSTOP)" in ended.said


def test_a_run_that_is_suspended_whole_goes_on(
    model: Path, whole: dict[str, Whole], tmp_path: Path
) -> None:
    """As by Ctrl-Z and ``fg``, or by ``scontrol suspend``: nobody is gone."""
    out, log = tmp_path / "out", tmp_path / "log"
    run = [*options(model, "queue", 2), "--output", str(out)]
    run[run.index("none")] = "plain"
    fault = Fault(0.0, signal.SIGSTOP, None, MIDST, pause=STALL + 2.0)
    ended = run_forked(run, log, 2, fault, patience=PATIENCE, stall=STALL)
    assert ended.struck
    assert ended.statuses == (0, 0), ended.said
    assert content_of(out) == whole["queue"].content
