"""``longtake configs``, and ``--config`` by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longtake.ready_configs import ready_configs
from tests.cli.command import COMMAND, longtake, run


def test_the_list_is_a_table_or_json() -> None:
    done = run([*COMMAND, "configs"])
    assert done.returncode == 0, done.stderr
    assert "One minute of the bundled" in done.stdout
    done = run([*COMMAND, "configs", "--format", "json"])
    assert [row["name"] for row in json.loads(done.stdout)] == list(ready_configs())


@pytest.mark.parametrize(
    ("name", "gpu"), [("wan2.1-1.3b-minute", "RTX 4090"), ("1x8gb-wan2.1-1.3b-480p", "RTX 4060")]
)
def test_a_ready_configuration_is_planned_by_its_name(tmp_path: Path, name: str, gpu: str) -> None:
    """Those for a GPU's memory would be refused if they did not fit."""
    command = [*COMMAND, "plan", "--config", name, "--profile", gpu]
    variables = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = run(command, tmp_path, variables)
    assert done.returncode == 0, done.stderr
    assert "Wan-AI/Wan2.1-T2V-1.3B-Diffusers" in done.stdout
    assert "the plan is made from its structure" in done.stderr


def test_an_unknown_name_is_refused_in_a_sentence() -> None:
    done = longtake("predict", "--config", "dmo")
    assert done.returncode == 2
    assert "the nearest is demo" in done.stderr
