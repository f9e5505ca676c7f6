"""Quick help: its parts are the whole (that the files are right: tests/cli/test_help.py)."""

from __future__ import annotations

import json

import pytest
import yaml

from longtake.commands import COMMANDS
from longtake.errors import ConfigurationError
from longtake.framework.console.trust import NOT_BY_NAME
from longtake.quick_help import FOLDER, SHELLS, answer, group_of, help_of, options_of
from longtake.ready_configs import ready_configs


def test_the_schema_knows_every_option_of_the_ready_configurations() -> None:
    found = json.loads((FOLDER / "jsonschema").read_text(encoding="utf-8"))
    assert not any(name in json.dumps(found) for name in NOT_BY_NAME)
    for name, file in ready_configs().items():
        for group, options in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            known = found["properties"][group]
            if isinstance(options, dict):
                assert options.keys() <= known["properties"].keys(), name


def options(text: str) -> list[str]:
    return [name for names, _ in options_of(text) for name in names[:1]]


@pytest.mark.parametrize("command", ["predict", "plan"])
def test_groups_are_the_whole(command: str) -> None:
    whole = options(help_of(command, "all"))
    parts = [options(help_of(command, g)) for g in ("run", "trainer", "model", "data", "video")]
    assert sorted(name for part in parts for name in part) == sorted(whole)
    assert {group_of(name) for name in parts[1]} == {"trainer"}
    short = options(help_of(command))
    assert set(short) < set(whole)
    assert {"model.pipeline", "data.prompts", "output", "trainer.devices"} <= set(short)
    assert help_of(command).count("\n") < help_of(command, "all").count("\n") / 2


def test_anything_else_is_for_the_command_line() -> None:
    assert answer(["predict", "--config", "demo"]) is None
    assert answer([]) is None
    assert answer(["predict", "--config", "demo", "-h"]) == help_of("predict")
    with pytest.raises(ConfigurationError, match="the nearest is 'model'"):
        answer(["predict", "--help=modle"])
    with pytest.raises(ConfigurationError, match="possible: bash, zsh, fish, jsonschema"):
        answer(["--print_completion=csh"])


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_option(shell: str) -> None:
    script = answer([f"--print_completion={shell}"])
    assert script is not None
    for command in COMMANDS:
        for name in options(help_of(command, "all")):
            assert name.removesuffix("+") in script, (command, name)
