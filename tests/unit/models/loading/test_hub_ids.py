"""Models that cannot be run as they are named: what to run instead, and under which licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from huggingface_hub.errors import GatedRepoError

from longtake.errors import ModelError
from longtake.models import ModelCard, family_of, open_folder
from longtake.models.licence import licence_of

I2V = "WanImageToVideoPipeline (image to video, such as Wan-AI/Wan2.1-I2V-14B-480P-Diffusers)"
T2V = "WanPipeline (text, image or video to video, such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers)"
INSTEAD = {
    "WanVACEPipeline": ["VACE steers a video", f"nearest registered pipeline is {T2V}"],
    "WanAnimatePipeline": ["Animate moves a character", f"nearest registered pipeline is {I2V}"],
    "WanVideoToVideoPipeline": ["has the weights of WanPipeline too", f"pipeline is {T2V}"],
    "LTX2Pipeline": ["video and sound in two streams", "pipeline is LTXPipeline (text, image or"],
    "LTX2ImageToVideoPipeline": ["pipeline is LTXPipeline (text, image or video to video"],
    "LTXImageToVideoPipeline": ["has the weights of LTXPipeline too", "image or video to video"],
    "HunyuanVideoFramepackPipeline": ["FramePack", "pipeline is HunyuanVideoPipeline ("],
    "HunyuanSkyreelsImageToVideoPipeline": [
        "pipeline is HunyuanVideoPipeline (",
        "HunyuanVideoImageToVideoPipeline (image to video",
    ],
    "CogVideoXVideoToVideoPipeline": ["CogVideoXPipeline (text, image or video to video"],
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": [
        "have the weights of SkyReelsV2DiffusionForcingPipeline too",
    ],
    "FluxPipeline": ["no registered family is near it; there are CogVideoXImageToVideoPipeline,"],
    "CogView4Pipeline": ["no registered family is near it"],
}


def folder_of(path: Path, pipeline: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    return path


@pytest.mark.parametrize("pipeline", INSTEAD)
def test_the_nearest_family_is_named(pipeline: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        family_of(open_folder(str(folder_of(tmp_path, pipeline))))
    sentence = str(refused.value)
    assert f"a {pipeline}, which is not registered; " in sentence
    for words in INSTEAD[pipeline]:
        assert words in sentence
    assert "docs/new-backbone.md" in sentence


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
        ("Wan-AI/Wan2.2-I2V-A14B", "Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
        ("Skywork/SkyReels-V2-DF-1.3B-540P", "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers"),
        ("tencent/HunyuanVideo", "hunyuanvideo-community/HunyuanVideo"),
    ],
)
def test_an_original_id_names_its_twin_without_asking_the_hub(
    name: str, twin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longtake.models.loading.hub.snapshot_download", None)
    with pytest.raises(ModelError) as refused:
        open_folder(name)
    assert str(refused.value).startswith(f"model.pipeline is {name}, which holds the model in its")
    assert str(refused.value).endswith(f"diffusers folder is {twin}.")


@pytest.mark.parametrize("name", ["Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "me/Wan2.1-mine"])
def test_other_ids_are_looked_for(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def hub(_name: str, *, dry_run: bool = False, **_options: Any) -> str | list[Any]:
        return [] if dry_run else str(folder_of(tmp_path, "WanPipeline"))

    monkeypatch.setattr("longtake.models.loading.hub.snapshot_download", hub)
    assert open_folder(name).hub_id == name


def test_a_gated_repository_says_what_to_accept_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(name: str, **_options: Any) -> str:
        raise GatedRepoError("403 Client Error.\nCannot access gated repo", response=MagicMock())

    monkeypatch.setattr("longtake.models.loading.hub.snapshot_download", gated)
    with pytest.raises(ModelError) as refused:
        open_folder("owner/name")
    sentence = str(refused.value)
    for words in (
        "is gated",
        "https://huggingface.co/owner/name",
        "accept the licence",
        "HF_TOKEN",
    ):
        assert words in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        (None, None),
        ("# No front matter\nlicense: mit\n", None),
        ("---\nlicense: mit\n---\n# A model\n", "mit"),
        ("---\ntags: [a]\nlicense: other\nlicense_name: my-terms\n---\n", "my-terms"),
        ("---\nlicense: other\n---\n", "other"),
        ('---\r\nlicense: "apache-2.0"\r\n---\r\n', "apache-2.0"),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
    ],
)
def test_a_folder_s_licence_goes_before_its_card_s(
    readme: str | None, expected: str | None, tmp_path: Path
) -> None:
    folder = open_folder(str(folder_of(tmp_path, "WanPipeline")))
    if readme is not None:
        (tmp_path / "README.md").write_bytes(readme.encode())
    card = ModelCard(pipeline="WanPipeline", licence="of-the-card")
    assert licence_of(folder, card) == (expected or "of-the-card")
    assert licence_of(folder, ModelCard(pipeline="WanPipeline")) == expected
