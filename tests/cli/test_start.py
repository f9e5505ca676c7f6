"""The real command with the bundled model: a video from an image, and one that continues it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from longtake.demo.shapes import clip_of_prompt, render_clips
from tests.cli.command import predict, report_of, run_here

PROMPT = "a red circle moving diagonally on a teal background"
SETTINGS = """\
trainer: {accelerator: cpu}
model:
  pipeline: demo
  scheduler: {class_path: FifoQueue, init_args: {block_frames: 3, context_frames: 2}}
  steps: 4
  guidance_scale: 2.0
  dtype: float32
data:
  prompts: ["a red circle moving diagonally on a teal background"]
  num_frames: 29
  height: 64
  width: 64
"""


def frames_of(video: Path) -> Tensor:
    with av.open(str(video)) as container:
        pictures = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
    return torch.from_numpy(np.stack(pictures)).float()


def test_a_video_starts_from_an_image_and_another_one_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, image = tmp_path / "start.yaml", tmp_path / "first.png"
    shown = render_clips(clip_of_prompt(PROMPT, torch.Generator().manual_seed(0)), 1)[0, :, 0]
    pixels = ((shown.permute(1, 2, 0) + 1.0) * 127.5).round().to(torch.uint8)
    Image.fromarray(pixels.numpy()).save(image)
    config.write_text(f"{SETTINGS}  start: {image}\n")
    first, second = tmp_path / "first", tmp_path / "second"

    done = predict("--config", config, "--output", first)
    assert done.returncode == 0, done.stderr
    video = frames_of(first / "0000" / "video.mp4")
    assert len(video) == 29
    assert (video[0] - pixels.float()).abs().mean() < 5, "the VAE and the file blur a little"
    assert "start" in report_of(first)["parts"]
    resolved = yaml.safe_load((first / "config.yaml").read_text())
    assert (resolved["data"]["start"], resolved["data"]["start_frames"]) == (str(image), None)

    end = first / "0000" / "video.mp4"
    changes: list[str | Path] = [
        "--data.start",
        end,
        "--data.start_frames",
        "9",
        "--data.seed",
        "1",
    ]
    changes += ["--data.end", "first.png", "--data.keyframes", "[{at: 1, image: first.png}]"]
    monkeypatch.chdir(tmp_path)
    done = predict("--config", config, "--output", second, *changes)
    assert done.returncode == 0, done.stderr
    continued = frames_of(second / "0000" / "video.mp4")
    assert len(continued) == 29
    errors = (continued[:9] - video[-9:]).abs().mean(dim=(1, 2, 3))
    assert errors.median() < 5, "the new video begins with the end of the old one"
    for frame in (16, 28):
        assert (continued[frame] - pixels.float()).abs().mean() < 5, "and shows the pictures"
    resolved = yaml.safe_load((second / "config.yaml").read_text())["data"]
    assert resolved["end"] == str(image)
    assert resolved["keyframes"] == [{"at": 1.0, "image": str(image)}]


def test_a_start_that_is_not_there_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "start.yaml"
    config.write_text(SETTINGS)
    out = tmp_path / "out"
    options = ("--config", config, "--output", out, "--data.start", tmp_path / "none.png")
    done = run_here(capsys, "predict", *options)
    assert done.returncode == 2
    assert done.stderr == (
        f"longtake: error: data.start is {tmp_path / 'none.png'}, but there is no such file. "
        "[LT-CONFIG]\n"
    )
    assert not out.exists()


def test_a_keyframe_outside_the_video_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "start.yaml"
    config.write_text(f"{SETTINGS}  keyframes: [{{at: 3, image: a.png}}]\n")
    done = run_here(capsys, "predict", "--config", config, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr == (
        "longtake: error: data.keyframes at 3 s is a.png, but this video of 29 frames at 16 per "
        "second shows its last one at 1.75 s; choose 0 to 1.75. [LT-CONFIG]\n"
    )
    assert not (tmp_path / "out").exists()
