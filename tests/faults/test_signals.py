"""Signals: a run ends in good order, says how with its status, and goes on where it was."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import av
import pytest

from longtake.framework.exit_status import ExitStatus
from tests.faults.cases import Whole, content_of, options
from tests.faults.forked import Fault, run_forked

DOCS = Path(__file__).parents[2] / "docs" / "resume.md"
MIDST = "event=block_end request=0 block=1 "


def test_exit_statuses_are_frozen() -> None:
    """Scripts and schedulers go by them: changing one is a breaking change."""
    assert {status.name: int(status) for status in ExitStatus} == {
        "DONE": 0,
        "FAILED": 1,
        "MISTAKE": 2,
        "RESUMABLE": 75,
        "INTERRUPTED": 130,
    }
    text = DOCS.read_text()
    for status in ExitStatus:
        assert f"| {int(status)} |" in text, f"{status} is not documented"


@pytest.mark.parametrize(
    ("sent", "ranks", "to", "status"),
    [
        (signal.SIGINT, 1, None, ExitStatus.INTERRUPTED),
        (signal.SIGTERM, 1, None, ExitStatus.RESUMABLE),
        (signal.SIGHUP, 1, None, ExitStatus.RESUMABLE),
        (signal.SIGUSR1, 2, None, ExitStatus.RESUMABLE),
        (signal.SIGTERM, 2, None, ExitStatus.RESUMABLE),
        (signal.SIGTERM, 2, 1, ExitStatus.RESUMABLE),
        (signal.SIGINT, 2, 1, ExitStatus.INTERRUPTED),
    ],
)
def test_a_signal_ends_a_run_that_can_go_on(
    sent: signal.Signals,
    ranks: int,
    to: int | None,
    status: ExitStatus,
    model: Path,
    whole: dict[str, Whole],
    tmp_path: Path,
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    run = [*options(model, "queue", ranks), "--output", str(out)]
    # Without snapshots on the way: the one that is taken at the end must be enough.
    often = run.index("--snapshot_seconds")
    run[often + 1] = "1e6"
    run[run.index("none")] = "plain"
    ended = run_forked(run, log, ranks, Fault(0.0, sent, to, MIDST))
    assert ended.statuses[0] == status, ended.said
    assert "Traceback" not in ended.said
    report = json.loads((out / "report.json").read_text())
    assert report["exit_reason"] == "stopped"
    with av.open(str(out / "0000" / "video.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == report["frames"]
    again = run_forked(["predict", "--resume", str(out)], log, ranks)
    assert set(again.statuses) == {0}, again.said
    assert content_of(out) == whole["queue"].content
    assert json.loads((out / "report.json").read_text())["frames"] == 2 * 49
    assert not list(out.rglob(".*"))


def test_a_second_signal_ends_it_at_once(
    model: Path, whole: dict[str, Whole], tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    run = [*options(model, "queue", 1), "--output", str(out)]
    run[run.index("none")] = "plain"
    ended = run_forked(run, log, 1, Fault(0.0, signal.SIGINT, None, MIDST, times=3))
    assert ended.statuses == (ExitStatus.INTERRUPTED,), ended.said
    again = run_forked(["predict", "--resume", str(out)], log)
    assert again.statuses == (0,), again.said
    assert content_of(out) == whole["queue"].content


def test_a_signal_that_dumps_core_ends_a_run_that_can_go_on(
    model: Path, whole: dict[str, Whole], tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    run = [*options(model, "queue", 1), "--output", str(out)]
    run[run.index("none")] = "plain"
    ended = run_forked(run, log, 1, Fault(0.0, signal.SIGQUIT, None, MIDST))
    assert ended.statuses == (-signal.SIGQUIT,), ended.said
    again = run_forked(["predict", "--resume", str(out)], log, 1)
    assert again.statuses == (0,), again.said
    assert content_of(out) == whole["queue"].content


def test_a_scheduler_that_repeats_itself_gives_no_second_order(
    model: Path, whole: dict[str, Whole], tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    run = [*options(model, "queue", 2), "--output", str(out)]
    run[run.index("none")] = "plain"
    ended = run_forked(run, log, 2, Fault(0.0, signal.SIGTERM, None, MIDST, times=3))
    assert ended.statuses[0] == ExitStatus.RESUMABLE, ended.said
    again = run_forked(["predict", "--resume", str(out)], log, 2)
    assert set(again.statuses) == {0}, again.said
    assert content_of(out) == whole["queue"].content


def test_a_scheduler_ends_an_endless_video_that_goes_on(model: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    run = [*options(model, "queue", 1), "--output", str(out)]
    run += ["--data.num_frames", "null", "--data.prompts", "red shape moves left"]
    run[run.index("none")] = "plain"
    ended = run_forked(run, log, 1, Fault(0.0, signal.SIGTERM, None, MIDST))
    assert ended.statuses == (ExitStatus.RESUMABLE,), ended.said
    first = json.loads((out / "report.json").read_text())
    assert first["exit_reason"] == "stopped"
    onward = Fault(0.0, signal.SIGINT, None, "event=block_end request=0 block=5 ")
    again = run_forked(["predict", "--resume", str(out)], log, 1, onward)
    assert again.statuses == (ExitStatus.DONE,), again.said
    report = json.loads((out / "report.json").read_text())
    assert report["frames"] > first["frames"] + 24
    with av.open(str(out / "0000" / "video.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == report["frames"]


def test_a_run_that_was_started_by_nohup_outlives_its_terminal(
    model: Path, whole: dict[str, Whole], tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    run = [*options(model, "queue", 1), "--output", str(out)]
    run[run.index("none")] = "plain"
    fault = Fault(0.0, signal.SIGHUP, None, MIDST)
    ended = run_forked(run, log, 1, fault, ignored=(signal.SIGHUP,))
    assert ended.struck
    assert ended.statuses == (0,), ended.said
    assert content_of(out) == whole["queue"].content
