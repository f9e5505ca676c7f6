"""The project's dependencies: each has a floor, and what is known to be broken lies below it."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from floors import PYPROJECT, direct_dependencies, floor

DIRECT = {str(canonicalize_name(each.name)): each for each in direct_dependencies()}


@pytest.mark.parametrize("name", DIRECT)
def test_every_dependency_has_a_floor_and_is_installed(name: str) -> None:
    oldest = floor(DIRECT[name])
    assert Version(version(name)) >= Version(oldest)
    assert version(name) in DIRECT[name].specifier


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("transformers", "5.2.0"),  # UMT5's embeddings are random
        ("transformers", "5.20.2"),  # HunyuanVideo's tokenizer loses spaces
        ("lightning", "2.6.3"),  # malware
    ],
)
def test_what_is_known_to_be_broken_is_not_allowed(name: str, broken: str) -> None:
    assert broken not in DIRECT[name].specifier


def test_sentencepiece_models_can_be_read() -> None:
    """By transformers, which needs both and names neither as its own dependency."""
    assert {"sentencepiece", "protobuf"} <= set(DIRECT)


def test_every_dependency_is_pinned_for_the_figures() -> None:
    lines = (PYPROJECT.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    pinned = {
        str(canonicalize_name(pin.name)): str(pin.specifier).removeprefix("==") for pin in pins
    }
    for name, dependency in DIRECT.items():
        assert pinned[name] in dependency.specifier


def test_a_dependency_without_a_floor_is_named(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text('[project]\ndependencies = ["torch<3"]\noptional-dependencies.test = []\n')
    [found] = direct_dependencies(file)
    with pytest.raises(ValueError, match=re.escape("torch<3 has no floor: write torch>=VERSION.")):
        floor(found)
