"""Replicas of the mesh: five requests shared out, the bytes of one device, whatever happens."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from longtake.framework.exit_status import ExitStatus
from tests.faults.cases import content_of, left_in
from tests.faults.forked import Fault, run_forked

FRAMES = (13, 49, 25, 13, 37)
"""Video frames of the requests: in two shares, 0, 1, 3 and 2, 4 or so."""


def _options(model: Path, prompts: Path, replicas: int, out: Path) -> list[str]:
    return [
        *("predict", "--model.pipeline", str(model), "--output", str(out)),
        *("--trainer.accelerator", "cpu", "--model.steps", "2", "--model.dtype", "float32"),
        *("--model.scheduler", "FifoQueue", "--model.scheduler.block_frames", "3"),
        *("--model.scheduler.context_frames", "2", "--model.cache", "SameStepKV"),
        *("--data.prompts", str(prompts), "--data.height", "32", "--data.width", "48"),
        *("--keep_latents", "all", "--snapshot_seconds", "0.000001", "--progress", "plain"),
        *("--trainer.devices", str(replicas), "--trainer.strategy", "SingleDevice"),
        *("--trainer.strategy.data", str(replicas)),
    ]


def _report(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of five requests of unequal length."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    lines = [
        {"prompt": f"red shape {index}", "num_frames": frames, "seed": index}
        for index, frames in enumerate(FRAMES)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def serial(model: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the checksums of what one device makes."""
    out = tmp_path_factory.mktemp("serial") / "out"
    ended = run_forked(_options(model, prompts, 1, out), out.with_suffix(".log"))
    assert ended.statuses == (0,), ended.said
    return content_of(out)


def test_two_replicas_make_the_bytes_of_one_device(
    model: Path, prompts: Path, serial: dict[str, str], tmp_path: Path
) -> None:
    """One report, in the order of the requests; each replica says how far it is."""
    out = tmp_path / "out"
    ended = run_forked(_options(model, prompts, 2, out), tmp_path / "log", 2)
    assert ended.statuses == (0, 0), ended.said
    assert content_of(out) == serial
    report = _report(out)
    assert [one["index"] for one in report["requests"]] == [0, 1, 2, 3, 4]
    assert [one["frames"] for one in report["requests"]] == list(FRAMES)
    shares = report["layout"]["requests"]
    assert sorted(shares[0] + shares[1]) == [0, 1, 2, 3, 4]
    assert [one["requests"] for one in report["replicas"]] == shares
    assert (report["layout"]["mesh"]["data"], report["ranks"]) == (2, 2)
    for request in range(5):
        assert f"event=request_end request={request} reason=finished" in ended.said
    assert ended.said.count("event=summary") == 1
    assert not left_in(out)
    assert not list(out.glob("report-*"))


def test_a_dead_replica_ends_the_others_and_the_run_goes_on_without(
    model: Path, prompts: Path, serial: dict[str, str], tmp_path: Path
) -> None:
    """On another number of replicas: what is saved is saved by request."""
    out, log = tmp_path / "out", tmp_path / "log"
    fault = Fault(0.0, signal.SIGKILL, 1, "event=block_end request=4 block=1 ")
    ended = run_forked(_options(model, prompts, 2, out), log, 2, fault, stall=2.0)
    assert ended.statuses == (ExitStatus.FAILED, -signal.SIGKILL), ended.said
    assert "but rank 1 gave no sign of life for " in ended.said, ended.said
    resumed = [*_options(model, prompts, 1, out), "--resume", "auto"]
    ended = run_forked(resumed, log)
    assert ended.statuses == (0,), ended.said
    assert content_of(out) == serial
    assert [one["frames"] for one in _report(out)["requests"]] == list(FRAMES)
    assert not left_in(out)
    assert not list(out.glob("report-*"))


def test_a_signal_to_one_replica_ends_all(
    model: Path, prompts: Path, serial: dict[str, str], tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    fault = Fault(0.0, signal.SIGTERM, 1, "event=block_end request=4 block=0 ")
    ended = run_forked(_options(model, prompts, 2, out), log, 2, fault)
    assert ended.statuses == (ExitStatus.RESUMABLE, 0), ended.said
    assert "Traceback" not in ended.said
    assert _report(out)["exit_reason"] == "stopped"
    ended = run_forked(["predict", "--resume", str(out)], log, 2)
    assert ended.statuses == (0, 0), ended.said
    assert content_of(out) == serial
