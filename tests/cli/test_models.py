"""``longtake models``: every family that is registered, and what it takes."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from longtake.framework.console.models_report import row_of
from longtake.framework.main import main
from longtake.listings import show_listing
from longtake.models import Defaults, ModelCard, registered
from tests.cli.command import frame_count, predict

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    with pytest.raises(SystemExit) as ended:
        main(["models", "--format", "json"])
    assert ended.value.code == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_every_family_is_listed_with_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys)
    assert {row["pipeline"] for row in rows} == set(registered())
    assert {
        "pipeline": "HunyuanVideoPipeline",
        "made_from": "text,image,video",
        "start": "replacement",
        "end": "replacement",
        "keyframes": "replacement",
        "continue": "replacement",
        "guidance": "either",
        "timestep_per": "clip",
        "native_frames": 33,
        "decoder": "overlap",
        "axes": "layers,cfg,ulysses,ring",
        "licence": "tencent-hunyuan-community",
        "height": 720,
        "width": 1280,
        "num_frames": 129,
        "fps": 24,
        "steps": 50,
        "guidance_scale": 6.0,
        "guidance_scale_2": None,
        "flow_shift": None,
        "examples": "hunyuanvideo-community/HunyuanVideo",
        "model": "HunyuanVideo",
    } in rows
    wan = [row["timestep_per"] for row in rows if row["pipeline"] == "WanPipeline"]
    assert wan == ["clip", "clip", "frame"]


HELD = "start=replacement end=replacement keyframes=replacement continue=replacement"
TRAINED = "start=native end=replacement keyframes=replacement continue=replacement"
GOES_ON = "start=native end=replacement keyframes=replacement continue=native"


HONOURED = {
    "CogVideoX 1.0 2B": HELD,
    "CogVideoX 1.0 5B": HELD,
    "CogVideoX 1.0 5B I2V": TRAINED,
    "CogVideoX 1.5 5B": HELD,
    "CogVideoX 1.5 5B I2V": TRAINED,
    "HunyuanVideo": HELD,
    "HunyuanVideo 1.5": HELD,
    "HunyuanVideo 1.5 I2V": TRAINED,
    "HunyuanVideo I2V": "start=native end=refused keyframes=refused continue=replacement",
    "HunyuanVideo I2V, 33 channels": TRAINED,
    "Kandinsky 5 Lite": HELD,
    "Kandinsky 5 Lite I2V": TRAINED,
    "Kandinsky 5 Lite, 10 s": HELD,
    "LTX-Video": TRAINED,
    "LTX-Video 0.9.5": TRAINED,
    "LTX-Video 0.9.7 13B": TRAINED,
    "LTX-Video 13B, distilled": TRAINED,
    "Mochi 1": "start=refused end=refused keyframes=refused continue=refused",
    "Open-Sora-Plan 1.3": HELD,
    "Open-Sora-Plan 1.3 I2V": GOES_ON,
    "SkyReels-V2 720P, image to video": TRAINED,
    "SkyReels-V2 720P, text to video": HELD,
    "SkyReels-V2, diffusion forcing": GOES_ON,
    "SkyReels-V2, image to video": TRAINED,
    "SkyReels-V2, text to video": HELD,
    "Wan 2.1": HELD,
    "Wan 2.1 FLF2V": "start=native end=native keyframes=replacement continue=replacement",
    "Wan 2.1 I2V": GOES_ON,
    "Wan 2.2 A14B": HELD,
    "Wan 2.2 I2V A14B": "start=native end=native keyframes=replacement continue=native",
    "Wan 2.2 TI2V": TRAINED,
}


def test_every_model_says_how_it_honours_given_frames(capsys: pytest.CaptureFixture[str]) -> None:
    """Every one that is listed, but those that other tests register."""
    kinds = ("start", "end", "keyframes", "continue")
    said = {
        row["model"]: " ".join(f"{kind}={row[kind]}" for kind in kinds) for row in listed(capsys)
    }
    assert {model: said.get(model) for model in HONOURED} == HONOURED
    own = {card.model for family in set(registered().values()) for card in family.cards
           if family.__module__.startswith("longtake.models.")}  # fmt: skip
    assert own == set(HONOURED)


def test_a_model_that_chooses_keys_has_no_ring(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = (one for one in listed(capsys) if one["model"] == "Kandinsky 5 Lite, 10 s")
    assert row["axes"] == "layers,cfg,ulysses"


def test_a_plug_in_that_says_nothing_is_listed_too() -> None:
    row = row_of(ModelCard(pipeline="SketchPipeline"))
    known = {name: value for name, value in row.items() if value is not None}
    assert known == {
        "pipeline": "SketchPipeline",
        "axes": "layers,cfg,ulysses,ring",
        "height": 480,
        "width": 832,
        "num_frames": 81,
        "fps": 16,
        "steps": 50,
        "guidance_scale": 5.0,
    }


def test_people_get_a_table_in_a_pipe_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    own = Defaults(guidance_scale=4.0, guidance_scale_2=3.0, flow_shift=8.0)
    card = ModelCard(pipeline="SketchPipeline", guidance="embedded", start="always", defaults=own)
    show_listing("models", [row_of(replace(card, licence="my-terms"))])
    shown = capsys.readouterr().out
    assert "SketchPipeline" in shown
    assert "my-terms" in shown
    for words in ("832 x 480, 81 frames at 16/s", "50 steps, guidance 4 and 3", "shift 8"):
        assert words in shown
    assert "native: start; replacement: end," in shown
    assert "keyframes, continue" in shown
    assert "embedded" in shown
    assert "cfg" not in shown, "there is but one branch"


def test_it_takes_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["models", "--model.pipeline", "demo"])
    assert ended.value.code == 2
    assert "there is no option model.pipeline" in capsys.readouterr().err


def test_a_family_of_ones_own_is_named_in_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no registration step: the examples' plug-in, from the command line alone."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    importlib.import_module("sketch_dit").save_random(tmp_path / "sketch")
    options = (
        *("--model.pipeline", tmp_path / "sketch", "--model.dtype", "float32"),
        *("--model.steps", "3", "--model.scheduler", "FifoQueue"),
        *("--model.scheduler.block_frames", "3", "--model.scheduler.context_frames", "2"),
        *("--data.num_frames", "20", "--data.height", "48", "--data.width", "64"),
        *("--data.prompts", "a bird in the sky", "--trainer.accelerator", "cpu"),
    )
    refused = predict(*options, "--output", tmp_path / "refused")
    assert refused.returncode == 2
    assert "which is not registered" in refused.stderr
    family = ("--model.family", "plug_in_backbone.SketchFamily")
    done = predict(*options, *family, "--output", tmp_path / "out", modules=EXAMPLES)
    assert done.returncode == 0, done.stderr
    assert frame_count(tmp_path / "out" / "0000" / "video.mp4") == 20
