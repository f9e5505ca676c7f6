"""A hub model in the cache, offline: the commit of a run, and of its rerun."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.cli.command import predict, report_of

FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def cached(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache's folder of a model with two commits, as huggingface_hub lays it out."""
    folder = tmp_path / "cache" / "models--owner--tiny"
    for commit in (FIRST, SECOND):
        shutil.copytree(model, folder / "snapshots" / commit)
    [file] = (folder / "snapshots" / SECOND / "transformer").glob("*.safetensors")
    save_file({key: 0.9 * tensor for key, tensor in load_file(file).items()}, file)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(FIRST)
    return folder


def test_a_rerun_uses_the_commit_of_the_run(cached: Path, config: Path, tmp_path: Path) -> None:
    variables = {"HF_HUB_CACHE": str(cached.parent), "HF_HUB_OFFLINE": "1"}
    first, again, newer = (tmp_path / name for name in ("first", "again", "newer"))
    asked: list[str | Path] = ["--config", config, "--model.pipeline", "owner/tiny"]
    done = predict(*asked, "--output", first, variables=variables)
    assert done.returncode == 0, done.stderr
    report = report_of(first)
    assert (report["model"], report["revision"], report["variant"]) == ("owner/tiny", FIRST, None)
    assert yaml.safe_load((first / "config.yaml").read_text())["model"]["revision"] == FIRST
    (cached / "refs" / "main").write_text(SECOND)
    written: list[str | Path] = ["--config", first / "config.yaml"]
    for options, output in ((written, again), (asked, newer)):
        done = predict(*options, "--output", output, variables=variables)
        assert done.returncode == 0, done.stderr
    video = (first / "0000" / "video.mp4").read_bytes()
    assert (again / "0000" / "video.mp4").read_bytes() == video
    assert report_of(newer)["revision"] == SECOND
    assert (newer / "0000" / "video.mp4").read_bytes() != video
