"""``longtake convert``, and a video of what it has written."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from longtake.models.loading.folder import BUNDLED
from tests.cli.command import longtake, predict

SIZE = (
    *("--model.pipeline", "demo", "--model.dtype", "float32", "--model.timesteps", "[1000,500]"),
    *("--data.prompts", "a red circle moving diagonally on a teal background"),
    *("--data.height", "64", "--data.width", "64", "--data.num_frames", "33"),
    *("--trainer.accelerator", "cpu", "--keep_latents", "all"),
)


def test_a_converted_checkpoint_makes_the_same_video(tmp_path: Path) -> None:
    (file,) = (BUNDLED["demo"] / "transformer").glob("*.safetensors")
    state = {f"model.{key}": tensor for key, tensor in load_file(file).items()}
    torch.save({"generator_ema": state, "step": 7}, tmp_path / "demo.pt")
    refused = predict(*SIZE, "--model.weights", tmp_path / "demo.pt", "--output", tmp_path / "no")
    assert refused.returncode == 2
    assert f"longtake convert {tmp_path / 'demo.pt'} makes demo.safetensors" in refused.stderr
    converted = longtake("convert", tmp_path / "demo.pt")
    assert converted.returncode == 0, converted.stderr
    assert "key=generator_ema left_out=step" in converted.stdout
    weights = ("--model.weights", tmp_path / "demo.safetensors")
    for name, options in (("own", ()), ("given", weights)):
        done = predict(*SIZE, *options, "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
    for part in ("video.mp4", "latents/00000.safetensors"):
        own, given = (tmp_path / name / "0000" / part for name in ("own", "given"))
        assert own.read_bytes() == given.read_bytes()
    written = (tmp_path / "given" / "config.yaml").read_text()
    assert f"weights: {weights[1]}" in written
