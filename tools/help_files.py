"""Help files: what commands say of their options and list, a schema, completion for shells.

    python tools/help_files.py --write

writes ``src/longtake/assets/help`` and ``listings`` from the command line itself; without
``--write`` it says which files differ. Completion is made by shtab (``pip install shtab==1.13.0``;
without it those files stay as they are) from the names and choices in the help: the scripts that
jsonargparse has it make spell out every class that could stand anywhere, 58 MB of them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from jsonargparse import ArgumentParser, set_parsing_settings

from longtake.commands import COMMANDS, NAME
from longtake.framework.cli import LongtakeCLI
from longtake.framework.console.methods_report import methods
from longtake.framework.console.methods_report import row_of as method_row
from longtake.framework.console.models_report import cards
from longtake.framework.console.models_report import row_of as model_row
from longtake.framework.console.strategies_report import row_of as strategy_row
from longtake.framework.console.strategies_report import strategies
from longtake.framework.console.trust import NOT_BY_NAME
from longtake.listings import FOLDER as LISTED
from longtake.listings import Listing
from longtake.quick_help import FOLDER, SCHEMA, SHELLS, WIDTH, options_of
from longtake.tables import Cell

_CHOICES: Final = re.compile(r"\{([\w,.-]+)\}")


def help_text(command: str) -> str:
    """Return what the command line says of a command's options."""
    out = io.StringIO()
    with patch.dict(os.environ, COLUMNS=str(WIDTH)), redirect_stdout(out), suppress(SystemExit):
        LongtakeCLI([command, "--help"])
    return out.getvalue()


def schema() -> str:
    """Return the JSON schema of what ``longtake predict --config`` takes."""
    parsers: list[ArgumentParser] = []

    def keep(cli: LongtakeCLI, parser: ArgumentParser, args: object) -> None:
        parsers.append(cli._subcommand_parsers["predict"])
        raise SystemExit(0)

    with patch.object(LongtakeCLI, "parse_arguments", keep), suppress(SystemExit):
        LongtakeCLI(["predict"])
    set_parsing_settings(import_path_allowlist=[*NOT_BY_NAME])  # it describes them as well
    found = json.loads(parsers[0].get_completion_script("jsonschema"))
    return json.dumps(_without(found), indent=1, sort_keys=True) + "\n"


def completion(shell: str, helps: Mapping[str, str]) -> str:
    """Return the completion script of a shell, for the options in some help texts."""
    import shtab

    parser = argparse.ArgumentParser(prog=NAME)
    commands = parser.add_subparsers()
    for command, does in COMMANDS.items():
        part = commands.add_parser(command, help=does)
        for names, block in options_of(helps[f"{command}.txt"]):
            if "help" in names:
                continue
            choices = _CHOICES.search(block.splitlines()[0])
            first = names[0].removesuffix("+")
            made = part.add_argument(
                f"--{first}", choices=choices[1].split(",") if choices else None, help="_"
            )
            if first in ("config", "output", "plan", "save", "actions"):
                made.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _without(found: Any) -> Any:
    """Leave out the classes that no configuration may name."""
    if isinstance(found, dict):
        return {key: _without(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_without(one) for one in found if not _is_of(NOT_BY_NAME, one)]
    return found


def _is_of(modules: Sequence[str], found: Any) -> bool:
    """Whether a part of a schema describes a class of some modules."""
    path = found.get("properties", {}).get("class_path") if isinstance(found, dict) else None
    return path is not None and any(module in json.dumps(path) for module in modules)


def listings() -> dict[Path, str]:
    """Return what ``longtake models``, ``methods`` and ``strategies`` list of longtake's own."""
    rows: dict[Listing, list[dict[str, Cell]]] = {
        "models": [model_row(card) for card in cards()],
        "methods": [method_row(method) for method in methods()],
        "strategies": [strategy_row(strategy) for strategy in strategies()],
    }
    return {
        LISTED / f"{name}.json": json.dumps(found, indent=1) + "\n" for name, found in rows.items()
    }


def files() -> dict[Path, str]:
    """Return the content of all files by their paths."""
    found = {f"{command}.txt": help_text(command) for command in COMMANDS}
    if find_spec("shtab") is not None:
        found |= {f"completion.{shell}": completion(shell, found) for shell in SHELLS}
    found[SCHEMA] = schema()
    return {FOLDER / name: text for name, text in found.items()} | listings()


def main() -> int:
    """Write the files, or say which would be others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write them")
    writes = parser.parse_args().write
    sys.argv = [NAME]  # Lightning warns of two command lines
    differ = 0
    for file, text in files().items():
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            differ += not writes
            print(f"{'written' if writes else 'differs'}: {file.name}")
            if writes:
                file.parent.mkdir(exist_ok=True)
                file.write_text(text, encoding="utf-8")
    return min(differ, 1)


if __name__ == "__main__":
    raise SystemExit(main())
