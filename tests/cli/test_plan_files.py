"""Plan files from the command line: written, run on two ranks, refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import ranks, run_here
from tests.cli.conftest import SerialRun

DUALPARAL = [
    *("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "DualParal"),
    *("--trainer.strategy.cfg", "1", "--trainer.strategy.guidance", "together"),
    *("--trainer.strategy.decode_devices", "0", "--trainer.strategy.split", "[2,2]"),
]


def test_a_plan_with_another_order_of_actions_makes_the_same_bytes(
    capsys: pytest.CaptureFixture[str], serial: SerialRun, tmp_path: Path
) -> None:
    """The order of one strategy, on the layout of another."""
    options, video = serial.options, serial.video
    file, out = tmp_path / "lockstep.plan", tmp_path / "out"
    lockstep = ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    lockstep += ["--trainer.strategy", "two_rank_strategy.Lockstep"]
    done = run_here(capsys, "plan", *options, *lockstep, "--actions", file)
    assert done.returncode == 0, done.stderr
    assert "pipe2" in done.stdout
    # A snapshot would empty the pipeline, where the plan has messages posted ahead.
    follow = ["--plan", str(file), "--timeline", "true", "--snapshot_seconds", "never"]
    done = ranks(2, *options, *DUALPARAL, *follow, "--output", out)
    assert done.returncode == 0, done.stderr
    assert (out / "0000" / "video.mp4").read_bytes() == video
    # What every rank did, in order, is what the file says.
    lines = (out / "0000" / "timeline.txt").read_text().splitlines()
    for rank in ("0", "1"):
        did = [line.split(" ", 3)[3] for line in lines if line.startswith(f"{rank} ")]
        planned = [
            line.partition(": ")[2]
            for line in file.read_text().splitlines()
            if line.startswith(f"{rank}: ")
        ]
        assert did == planned


def test_a_wrong_plan_is_refused_with_its_fault_marked(
    capsys: pytest.CaptureFixture[str], serial: SerialRun, tmp_path: Path
) -> None:
    options = serial.options
    file, out = tmp_path / "wrong.plan", tmp_path / "out"
    done = run_here(capsys, "plan", *options, *DUALPARAL, "--actions", file)
    assert done.returncode == 0, done.stderr
    lines = file.read_text().splitlines()
    lines.remove(next(line for line in lines if line.startswith("1: receive hop b1s0")))
    file.write_text("\n".join(lines))
    done = run_here(capsys, "predict", *options, *DUALPARAL, "--plan", file, "--output", out)
    assert done.returncode == 2
    assert "the plan cannot be run: rank 1 cannot compute block 1, step 0" in done.stderr
    assert "<-- here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_no_plan_file_is_refused(
    capsys: pytest.CaptureFixture[str], serial: SerialRun, tmp_path: Path
) -> None:
    options = serial.options
    done = run_here(
        capsys, "predict", *options, "--plan", tmp_path / "none", "--output", tmp_path / "out"
    )
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
    endless = [*options, "--data.num_frames", "null", "--actions", str(tmp_path / "file")]
    done = run_here(capsys, "plan", *endless)
    assert done.returncode == 2
    assert "whose actions never end" in done.stderr


def test_a_strategy_without_actions_has_no_plan_and_says_so(
    capsys: pytest.CaptureFixture[str], serial: SerialRun, tmp_path: Path
) -> None:
    options = serial.options
    own = ["--trainer.strategy", "subclass_strategy.BranchByBranch"]
    done = run_here(capsys, "plan", *options, *own)
    assert done.returncode == 0, done.stderr
    assert "blocks in flight" in done.stdout
    assert "first block seconds" not in done.stdout
    assert "the strategy BranchByBranch runs without a plan" in done.stderr
    done = run_here(capsys, "plan", *options, *own, "--actions", tmp_path / "file")
    assert done.returncode == 2
    assert "runs without a plan" in done.stderr
