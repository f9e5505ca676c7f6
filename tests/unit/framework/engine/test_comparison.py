"""Comparison of all that devices can do: every row can be run, and the best one is saved so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from longtake.framework.main import main
from longtake.testing.tiny.base import tiny_wan_folder


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny").path
    return [
        *("plan", "--trainer.accelerator", "cuda", "--trainer.devices", "2"),
        *("--profile", "RTX 4090", "--model.pipeline", str(folder), "--model.steps", "3"),
        *("--model.scheduler", "FifoQueue", "--model.scheduler.block_frames", "3"),
        *("--model.scheduler.context_frames", "2", "--data.prompts", "a red shape, fast"),
        *("--data.height", "32", "--data.width", "48"),
    ]


def test_all_is_compared_and_the_best_is_saved_ready_to_run(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "long.yaml"
    compare = ["--data.num_frames", "121", "--compare", "true", "--format", "json"]
    prompts = [[{"text": "a red shape", "at": 0.0}, {"text": "a blue one", "at": 2.0}]]
    compare += ["--data.prompts", json.dumps(prompts)]
    main([*options, *compare, "--save", str(saved)])
    found = json.loads(capsys.readouterr().out)
    rows = found["choices"]
    assert {row["cache"] for row in rows} == {"NextBlockKV", "SameStepKV", "NoCache"}
    assert {row["strategy"] for row in rows} == {"DualParal", "SequenceParallel", "SingleDevice"}
    assert {"pipe2", "cfg2", "ulysses2", "ring2"} <= {row["mesh"] for row in rows}
    assert [row["total_s"] for row in rows] == sorted(row["total_s"] for row in rows)
    [best] = [row for row in rows if row["best"]]
    assert best["cache"] == "NextBlockKV"
    fastest = min(row["total_s"] for row in rows if row["cache"] == "NextBlockKV")
    assert best["total_s"] <= 1.02 * fastest
    content = yaml.safe_load(saved.read_text())
    assert content["trainer"]["strategy"]["class_path"] == best["strategy"]
    assert content["trainer"]["accelerator"] == "cuda"
    assert content["data"]["prompts"] == prompts, "as people write them"
    main(["plan", "--config", str(saved), "--profile", "RTX 4090", "--format", "json"])
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["seconds"] == pytest.approx(best["total_s"], abs=1e-3)
    assert figures["first_block_seconds"] == pytest.approx(best["first_frames_s"], abs=1e-3)


def test_replicas_are_compared_where_there_are_several_requests(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, prompts = tmp_path / "long.yaml", tmp_path / "prompts.jsonl"
    lines = [{"prompt": f"a bird {n}", "num_frames": n} for n in (37, 49, 13)]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    several = [*options, "--data.prompts", str(prompts)]
    main([*several, "--compare", "true", "--format", "json", "--save", str(saved)])
    rows = json.loads(capsys.readouterr().out)["choices"]
    [best] = [row for row in rows if row["best"]]
    assert (best["strategy"], best["mesh"]) == ("SingleDevice", "data2")
    chosen = yaml.safe_load(saved.read_text())["trainer"]["strategy"]
    assert chosen["init_args"] == {"decode_devices": 0, "data": 2}
    main(["plan", "--config", str(saved), "--profile", "RTX 4090", "--format", "json"])
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["all_requests_seconds"] == pytest.approx(best["total_s"], abs=1e-3)


def test_an_endless_video_has_a_pace_and_no_end(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*options, "--data.num_frames", "null", "--compare", "true", "--format", "json"])
    rows = json.loads(capsys.readouterr().out)["choices"]
    assert {row["total_s"] for row in rows} == {None}
    assert all(row["frames_per_s"] > 0 for row in rows)
    main([*options, "--data.num_frames", "4001", "--compare", "true", "--format", "json"])
    long = json.loads(capsys.readouterr().out)["choices"]
    for row in long:  # what is far from its beginning goes at the same pace
        [same] = [
            one for one in rows if all(one[k] == row[k] for k in ("mesh", "guidance", "cache"))
        ]
        assert row["frames_per_s"] == pytest.approx(same["frames_per_s"], rel=0.05)


def test_nothing_is_saved_without_a_comparison(options: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([*options, "--save", str(tmp_path / "long.yaml")])
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_replaced(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text("mine")
    with pytest.raises(SystemExit):
        main([*options, "--compare", "true", "--save", str(tmp_path / "long.yaml")])
    assert (tmp_path / "long.yaml").read_text() == "mine"
