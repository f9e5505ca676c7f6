"""Open-Sora-Plan, from the published folders to videos, by the command alone."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from PIL import Image

from longtake.testing.tiny.open_sora_plan import save_tiny_open_sora_plan_parts
from tests.cli.command import longtake, predict

FRAMES = 37


def made(tmp_path: Path, *, image: bool) -> Path:
    """Convert the published folders by the command."""
    parts = save_tiny_open_sora_plan_parts(tmp_path, vae_scale_factor_t=4 if image else 0)
    target = tmp_path / "pipeline"
    done = longtake(
        *("convert", parts["transformer"], "--output", target),
        *("--text_encoder", parts["text_encoder"]),
    )
    assert done.returncode == 0, done.stderr
    kind = "OpenSoraPlanImageToVideoPipeline" if image else "OpenSoraPlanPipeline"
    assert f"pipeline={kind}" in done.stdout
    return target


def config(pipeline: Path, **data: object) -> str:
    return yaml.safe_dump(
        {
            "trainer": {"accelerator": "cpu"},
            "model": {
                "pipeline": str(pipeline),
                "scheduler": {
                    "class_path": "FifoQueue",
                    "init_args": {"block_frames": 3, "context_frames": 2},
                },
                "steps": 3,
                "dtype": "float32",
            },
            "data": {
                "prompts": ["red bird moves"],
                "num_frames": FRAMES,
                "height": 32,
                "width": 48,
                **data,
            },
        }
    )


@pytest.mark.parametrize("image", [False, True], ids=["text", "image"])
def test_a_video_is_made_from_yaml(tmp_path: Path, image: bool) -> None:
    file, data = tmp_path / "run.yaml", {}
    if image:
        pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "first.png")
        data["start"] = str(tmp_path / "first.png")
    pipeline = made(tmp_path, image=image)
    file.write_text(config(pipeline, **data))
    for name in ("out", "again"):
        done = predict("--config", file, "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
    video = tmp_path / "out" / "0000" / "video.mp4"
    with av.open(str(video)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 18
    assert len(shown) == FRAMES
    assert np.std(shown) > 1, "the video is empty"
    assert video.read_bytes() == (tmp_path / "again" / "0000" / "video.mp4").read_bytes()
    written = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert written["model"]["prompt_template"] == "high quality, high aesthetic, {}"
    assert written["model"]["guidance_scale"] == 7.5
    assert written["data"]["negative_prompt"].startswith("nsfw, lowres, bad anatomy")


def test_a_folder_without_its_text_encoder_is_refused(tmp_path: Path) -> None:
    parts = save_tiny_open_sora_plan_parts(tmp_path)
    done = longtake("convert", parts["transformer"], "--output", tmp_path / "x")
    assert done.returncode == 2
    assert "give the folder of google/mt5-xxl as --text_encoder" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists()
