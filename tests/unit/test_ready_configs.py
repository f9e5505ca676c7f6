"""Ready configurations: found by name, and listed with what they need."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from longtake.errors import ConfigurationError
from longtake.ready_configs import ready_configs, rows_of, with_files

CONFIGS = Path(__file__).parents[2] / "configs"


def test_those_of_the_checkout_are_found() -> None:
    assert set(ready_configs().values()) == {
        *CONFIGS.glob("*.yaml"),
        *CONFIGS.glob("gpu/*.yaml"),
    }


@pytest.mark.parametrize("given", ["demo", "demo.yaml", "configs/demo.yaml"])
def test_a_name_stands_for_the_file(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = str(CONFIGS / "demo.yaml")
    assert with_files(["predict", "--config", given]) == ["predict", "--config", file]
    assert with_files(["predict", f"--config={given}"]) == ["predict", f"--config={file}"]
    assert with_files(["predict", "-c", given]) == ["predict", "-c", file]


def test_a_file_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("seed: 1")
    assert with_files(["--config", "demo"]) == ["--config", "demo"]


@pytest.mark.parametrize("given", ["my/run.yaml", "{data: {fps: 8}}", "mine.yaml"])
def test_other_values_are_left_to_the_parser(given: str) -> None:
    assert with_files(["--config", given, "--data.fps", "8"])[1] == given


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"nearest is wan2\.1-14b-1025-8gpu"):
        with_files(["--config", "wan2.1-14b-1025-8gp"])


def test_every_row_says_what_the_file_says() -> None:
    rows = {row["name"]: row for row in rows_of(ready_configs())}
    for name, file in ready_configs().items():
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert rows[name]["model"] == content["model"]["pipeline"]
        assert rows[name]["makes"]
    assert rows["demo"]["devices"] == "1 CPU"
    assert rows["demo"]["needs"] == "nothing: the model is bundled"
    assert rows["wan2.1-14b-1025-8gpu"] | {"makes": ""} == {
        "name": "wan2.1-14b-1025-8gpu",
        "makes": "",
        "model": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
        "devices": "8 GPUs",
        "video": "64 s, 832 x 480",
        "needs": "a download",
    }
    assert rows["wan2.1-i2v-14b"]["needs"] == "a download, an image to begin with (--data.start)"
    assert "models/self-forcing-1.3b.safetensors" in str(rows["self-forcing-1.3b"]["needs"])


def test_gpus_have_configurations_that_say_what_they_need() -> None:
    rows = {row["name"]: row for row in rows_of(ready_configs())}
    for name, devices in (
        ("1x24gb-wan2.1-14b-480p", "1 GPU"),
        ("8x24gb-wan2.1-14b-480p", "8 GPUs"),
    ):
        assert rows[name]["devices"] == devices
        assert "GB" in str(rows[name]["makes"])
    assert "1x8gb-wan2.1-1.3b-480p" in rows
    assert "1x8gb-wan2.1-14b-480p" not in rows, "nothing fits"
