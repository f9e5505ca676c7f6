"""What is said where a run's configuration is used on another machine than the run's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longtake.framework.console.rerun import differences
from longtake.framework.console.versions import versions
from longtake.framework.engine.run_folder import CONFIG_HEADER

HERE = {"device": "a processor"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"{CONFIG_HEADER} 1.0\nmodel: {{}}\n")
    return path


def leave_report(config: Path, **changes: Any) -> None:
    report = {"versions": versions(), "hardware": HERE} | changes
    (config.parent / "report.json").write_text(json.dumps(report))


def test_a_machine_that_is_equal_has_nothing_to_say(config: Path) -> None:
    leave_report(config)
    assert not list(differences([config], HERE))


def test_what_differs_is_named(config: Path) -> None:
    leave_report(config, versions=versions() | {"torch": "1.0"}, hardware={"device": "another"})
    (said,) = differences([config], HERE)
    assert f"torch 1.0 (here {versions()['torch']}), another (here a processor)" in said


@pytest.mark.parametrize("report", [None, "{", "[]", '{"versions": 3}'])
def test_files_that_no_run_has_left_are_passed_by(config: Path, report: str | None) -> None:
    if report is not None:
        (config.parent / "report.json").write_text(report)
    assert not list(differences([config, config.with_name("none.yaml")], HERE))
    config.write_text("model: {}\n")
    leave_report(config, versions={"torch": "1.0"})
    assert not list(differences([config], HERE))
