"""The real command, end to end, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tests.cli.command import (
    COMMAND,
    frame_count,
    latents_of,
    predict,
    report_of,
    run,
    run_here,
    start,
)
from tests.cli.conftest import SerialRun


def test_a_run_leaves_a_video_its_latents_its_config_and_a_report(serial: SerialRun) -> None:
    out, done = serial.out, serial.done
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert frame_count(out / "0000" / "video.mp4") == 37
    assert [block.shape for block in latents_of(out)] == [
        (1, 4, frames, 4, 6) for frames in (5, 3, 2)
    ]
    report = report_of(out)
    assert report["exit_reason"] == "finished"
    assert report["frames"] == 37
    assert set(report["parts"]) == {"text", "load", "denoise", "decode", "write"}
    assert "event=block_end request=0 block=2 blocks_done=3 blocks=3" in done.stderr


def test_a_process_of_its_own_does_what_a_forked_one_does(
    serial: SerialRun, tmp_path: Path
) -> None:
    """So other tests may fork theirs."""
    out = tmp_path / "out"
    asked = [*serial.options, "--output", str(out), "--keep_latents", "all"]
    done = run([*COMMAND, "predict", *asked, "--progress", "plain"])
    assert done.returncode == 0, done.stderr
    assert done.stdout == serial.done.stdout
    said, expected = (
        [line.partition(" frames=")[0] for line in text.splitlines()]  # decoding may lag behind
        for text in (done.stderr, serial.done.stderr)
    )
    assert said == expected
    assert (out / "0000" / "video.mp4").read_bytes() == serial.video
    files = [
        {path.relative_to(folder) for path in folder.rglob("*")} for folder in (out, serial.out)
    ]
    assert files[0] == files[1]


def test_the_resolved_config_makes_the_same_video_again(config: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ("--data.seed", "7", "--model.cache", "SameStepKV", "--keep_latents", "all")
    assert predict("--config", config, "--output", first, *arguments).returncode == 0
    resolved = yaml.safe_load((first / "config.yaml").read_text())
    assert resolved["data"]["seed"] == 7
    done = predict("--config", first / "config.yaml", "--output", second)
    assert done.returncode == 0, done.stderr
    for a, b in zip(latents_of(first), latents_of(second), strict=True):
        assert torch.equal(a, b)
    videos = [(folder / "0000" / "video.mp4").read_bytes() for folder in (first, second)]
    assert videos[0] == videos[1]


def test_each_line_of_a_jsonl_file_is_a_request_of_its_own(config: Path, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    prompts.write_text(
        '{"prompt": "red shape", "num_frames": 5}\n\n'
        '{"prompt": [{"at": 0, "text": "bird"}, {"at": 1, "text": "sea"}], "height": 48}\n'
    )
    done = predict(
        "--config", config, "--output", out, "--data.prompts", prompts,
        "--progress", "none", "--video.format", "png", "--video.zoom", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(list((out / "0000" / "frames").iterdir())) == 5
    assert len(list((out / "0001" / "frames").iterdir())) == 37
    heights = [request["height"] for request in report_of(out)["requests"]]
    assert heights == [32, 48]


@pytest.mark.parametrize(
    ("frames", "status"), [("null", 0), ("4001", 130)], ids=["endless", "finite"]
)
def test_ctrl_c_ends_a_video_with_a_complete_file(
    config: Path, tmp_path: Path, frames: str, status: int
) -> None:
    out = tmp_path / "out"
    arguments = ["predict", "--config", str(config), "--output", str(out), "--progress", "plain"]
    with start(*arguments, "--data.num_frames", frames) as process:
        for line in process.stderr:
            if "event=block_end" in line and "block=3 " in line:
                process.send_signal(2)
                break
        rest = process.stderr.read()
        assert process.wait(timeout=60) == status, rest
    assert "Traceback" not in rest
    report = report_of(out)
    assert report["exit_reason"] == "stopped"
    assert report["frames"] >= 33, "the first three blocks were decoded"
    assert frame_count(out / "0000" / "video.mp4") == report["frames"]


def test_a_mistake_is_one_sentence_and_status_2(config: Path, tmp_path: Path) -> None:
    done = predict("--config", config, "--output", tmp_path / "out", "--model.stepz", "3")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "longtake: error: there is no option model.stepz; the nearest is model.steps. [LT-CONFIG]\n"
    )
    assert not (tmp_path / "out").exists()


def test_help_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    done = run_here(capsys, "predict", "--help")
    assert done.returncode == 0
    for words in (
        "--model.pipeline", "--data.prompts", "--trainer.devices", "--output", "--video.format",
        "hub id", "Denoising steps of each block", "Ctrl-C ends with a complete file",
    ):  # fmt: skip
        assert words in " ".join(done.stdout.split()), words
    assert "seed_everything" not in done.stdout
    assert "optimizer" not in done.stdout
