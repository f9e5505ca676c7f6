"""Plan files from the command line: written, run on two ranks, refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import COMMAND, predict, run

EXAMPLES = Path(__file__).parents[2] / "examples"
DUALPARAL = [
    *("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "DualParal"),
    *("--trainer.strategy.cfg", "1", "--trainer.strategy.guidance", "together"),
    *("--trainer.strategy.decode_devices", "0", "--trainer.strategy.split", "[2,2]"),
]


@pytest.fixture(scope="module")
def serial(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], bytes]:
    """Return the options of a run, and the video that one device makes."""
    out = tmp_path_factory.mktemp("serial") / "out"
    options = [
        *("--model.pipeline", str(model), "--model.steps", "3", "--model.dtype", "float32"),
        *("--model.scheduler", "FifoQueue", "--model.scheduler.block_frames", "3"),
        *("--model.scheduler.context_frames", "2", "--data.prompts", "red shape moves left"),
        *("--data.num_frames", "37", "--data.height", "32", "--data.width", "48"),
    ]
    done = predict(*options, "--trainer.accelerator", "cpu", "--output", out)
    assert done.returncode == 0, done.stderr
    return options, (out / "0000" / "video.mp4").read_bytes()


def test_a_plan_with_another_order_of_actions_makes_the_same_bytes(
    serial: tuple[list[str], bytes], tmp_path: Path
) -> None:
    """The order of one strategy, on the layout of another."""
    options, video = serial
    file, out = tmp_path / "lockstep.plan", tmp_path / "out"
    lockstep = ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    lockstep += ["--trainer.strategy", "two_rank_strategy.Lockstep"]
    done = run([*COMMAND, "plan", *options, *lockstep, "--actions", str(file)], EXAMPLES)
    assert done.returncode == 0, done.stderr
    assert "mesh=pipe2" in done.stdout
    done = predict(*options, *DUALPARAL, "--plan", file, "--timeline", "true", "--output", out)
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
    serial: tuple[list[str], bytes], tmp_path: Path
) -> None:
    options, _ = serial
    file, out = tmp_path / "wrong.plan", tmp_path / "out"
    done = run([*COMMAND, "plan", *options, *DUALPARAL, "--actions", str(file)])
    assert done.returncode == 0, done.stderr
    lines = file.read_text().splitlines()
    lines.remove(next(line for line in lines if line.startswith("1: receive hop b1s0")))
    file.write_text("\n".join(lines))
    done = predict(*options, *DUALPARAL, "--plan", file, "--output", out)
    assert done.returncode == 2
    assert "the plan cannot be run: rank 1 cannot compute block 1, step 0" in done.stderr
    assert "<-- here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_no_plan_file_is_refused(serial: tuple[list[str], bytes], tmp_path: Path) -> None:
    options, _ = serial
    done = predict(*options, "--plan", tmp_path / "none", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
    endless = [*options, "--data.num_frames", "null", "--actions", str(tmp_path / "file")]
    done = run([*COMMAND, "plan", *endless, "--trainer.accelerator", "cpu"])
    assert done.returncode == 2
    assert "whose actions never end" in done.stderr


def test_a_strategy_without_actions_has_no_plan_and_says_so(
    serial: tuple[list[str], bytes], tmp_path: Path
) -> None:
    options, _ = serial
    own = ["--trainer.accelerator", "cpu", "--trainer.strategy", "subclass_strategy.BranchByBranch"]
    done = run([*COMMAND, "plan", *options, *own], EXAMPLES)
    assert done.returncode == 0, done.stderr
    assert "seconds=none" in done.stdout
    assert "the strategy BranchByBranch runs without a plan" in done.stdout
    done = run([*COMMAND, "plan", *options, *own, "--actions", str(tmp_path / "file")], EXAMPLES)
    assert done.returncode == 2
    assert "runs without a plan" in done.stderr
