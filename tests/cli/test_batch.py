"""Batches of prompts: each line as it would be alone, and all of them again from their config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.command import run_here

CASES = Path(__file__).parents[1] / "cases" / "batch-seed"


def small(model: Path) -> list[str]:
    """Return the options of a run of five video frames per prompt, one step each."""
    return [
        *("--trainer.accelerator", "cpu", "--model.pipeline", str(model), "--model.steps", "1"),
        *("--model.scheduler", "FullSequence", "--model.cache", "NoCache", "--data.fps", "8"),
        *("--model.dtype", "float32", "--data.num_frames", "5", "--progress", "none"),
        *("--data.height", "32", "--data.width", "48"),
    ]


def videos_of(out: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(out.glob("*/video.mp4"))]


def report_of(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_a_line_of_a_batch_is_made_again_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same prompt and seed give the same bytes, whichever line they stand in."""
    made = {}
    for name in ("batch", "alone"):
        out = tmp_path / name
        prompts = str(CASES / f"{name}.jsonl")
        done = run_here(
            capsys, "predict", *small(model), "--output", out, "--data.prompts", prompts
        )
        assert done.returncode == 0, done.stderr
        made[name] = videos_of(out)
        said = "request 2 asks for the same video as request 1, with seed 7"
        assert (said in done.stderr) == (name == "batch")
    blue, red, again = made["batch"]
    assert [red] == made["alone"]
    assert red == again
    assert red != blue


def test_twenty_prompts_are_made_again_from_their_config_in_another_folder(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By relative names of files, and with a seed that was drawn."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    lines = [{"prompt": f"red shape {n}", "seed": n} for n in range(18)]
    lines += [
        {"prompt": "a bird"},
        {"prompt": "a bird over the sea", "height": 48, "fps": "24000/1001"},
    ]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = ("--data.prompts", "prompts.jsonl", "--data.seed", "null", "--data.fps", "29.97")
    done = run_here(capsys, "predict", *small(model), *arguments, "--output", "first")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(there)
    config = here / "first" / "config.yaml"
    done = run_here(capsys, "predict", "--config", config, "--output", "second")
    assert done.returncode == 0, done.stderr
    first, second = videos_of(here / "first"), videos_of(there / "second")
    assert len(first) == len(set(first)) == 20
    assert first == second
    seeds = [request["seed"] for request in report_of(here / "first")["requests"]]
    data = yaml.safe_load(config.read_text())["data"]
    assert seeds == [*range(18), data["seed"], data["seed"]]
    assert data["fps"] == "30000/1001"
    rates = {request["fps"] for request in report_of(there / "second")["requests"]}
    assert rates == {"30000/1001", "24000/1001"}
