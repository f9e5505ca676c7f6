"""A release has one version everywhere, and a tag of the same name."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

import release_check

ROOT = Path(__file__).parents[3]


def test_there_is_one_version_with_notes() -> None:
    assert release_check.problems() == []


def test_a_tag_of_another_version_is_refused() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"the tag is v9.9.9, the version {version}." in release_check.problems("v9.9.9")
    assert not any(said.startswith("the tag") for said in release_check.problems(f"v{version}"))


def test_a_tag_starts_the_publishing_and_no_secret_is_used() -> None:
    text = (ROOT / ".github/workflows/publish.yml").read_text()
    flow = yaml.safe_load(text)
    assert flow[True]["push"] == {"tags": ["v*"]}  # YAML 1.1 reads "on" as true
    assert flow["permissions"] == {"contents": "read"}
    assert flow["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert flow["jobs"]["publish"]["needs"] == "build"
    assert "secrets." not in text
    runs = [step["run"] for step in flow["jobs"]["build"]["steps"] if "run" in step]
    assert any(run.startswith("python tools/release_check.py") for run in runs)
    assert "make wheel-check" in runs
