"""Quick help: what commands say of their options, from files that were made before.

The options are those of the classes that a run is made of, whose import takes seconds.
``tools/help_files.py`` writes the files from the command line itself, and a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from longtake.commands import COMMANDS, NAME
from longtake.errors import ConfigurationError, nearest

FOLDER: Final = Path(__file__).parent / "assets" / "help"
WIDTH: Final = 100
"""Columns of the files."""
COMPLETION: Final = "--print_completion"
"""As jsonargparse calls it."""
SHELLS: Final = ("bash", "zsh", "fish")
SCHEMA: Final = "jsonschema"
_GROUPS: Final = ("model", "data", "trainer", "video")
_RUN: Final = "run"
"""The group of the options that are in none."""
_SHORT: Final = {
    "run": "config output overwrite resume extend plan timeline profile compare save format",
    "model": "pipeline scheduler cache steps guidance_scale dtype quantize offload vae_tile lora",
    "data": "prompts num_frames height width fps seed negative_prompt start start_frames end",
    "trainer": "devices num_nodes strategy accelerator",
    "video": "format",
}
"""Options that most people set."""
_OPTION: Final = re.compile(r"  -\S.*")
_NAME: Final = re.compile(r"--([\w.]+)")


def answer(args: Sequence[str]) -> str | None:
    """Return what a command line asks for that stands in a file; ``None``: it asks for more.

    Args:
        args: Of the process.

    Raises:
        ConfigurationError: Help on what there is none.
    """
    if args and args[0].partition("=")[0] == COMPLETION:
        value = args[0].partition("=")[2] or " ".join(args[1:])
        return _file({shell: f"completion.{shell}" for shell in SHELLS} | {SCHEMA: SCHEMA}, value)
    if not args or args[0] not in COMMANDS:
        return None
    for arg in args[1:]:
        option, _, part = arg.partition("=")
        if option in ("-h", "--help"):
            return help_of(args[0], part)
    return None


def help_of(command: str, part: str = "") -> str:
    """Return the help of a command.

    Args:
        command: Which one.
        part: ``all``, a group of options, or "" for the options that most people set.

    Raises:
        ConfigurationError: There is no such part.
    """
    text = (FOLDER / f"{command}.txt").read_text(encoding="utf-8")
    blocks = list(options_of(text))
    if part == "all" or not any(group_of(names[0]) in _GROUPS for names, _ in blocks):
        return text
    parts = (*_GROUPS, _RUN)
    if part and part not in parts:
        raise ConfigurationError(
            f"--help is {part!r}; possible: all, {', '.join(parts)}, the nearest is "
            f"{nearest(part, ['all', *parts])!r}."
        )
    wanted = [
        block
        for names, block in blocks
        if (group_of(names[0]) == part if part else _is_short(names[0]))
    ]
    does = COMMANDS[command]
    title = f"options of {part}" if part else "options that most people set"
    return (
        f"usage: {NAME} {command} [--config FILE or NAME] [--OPTION VALUE ...]\n\n{does}\n\n"
        f"{title}:\n{''.join(wanted)}\n"
        f"All options: {NAME} {command} --help=all; a group of them: --help={'|'.join(parts)}.\n"
        f"What a class takes, as a strategy: {NAME} {command} --trainer.strategy.help DualParal.\n"
        f"For your shell and your editor: {NAME} {COMPLETION} {'|'.join((*SHELLS, SCHEMA))}.\n"
    )


def options_of(text: str) -> Iterator[tuple[list[str], str]]:
    """Yield the options of a help text: their names, without dashes, and their lines."""
    found: list[str] = []
    for line in [*text.splitlines(keepends=True), "\n"]:
        starts = _OPTION.match(line) is not None
        if found and (starts or not line.startswith("   ")):
            head = re.split(r"  +(?=[A-Z`(])", found[0].strip())[0]
            yield _NAME.findall(head), "".join(found)
            found = []
        if starts or found:
            found.append(line)


def group_of(name: str) -> str:
    """Return the group of an option: the part before the dot."""
    group = name.partition(".")[0]
    return group if group in _GROUPS else _RUN


def _is_short(name: str) -> bool:
    group = group_of(name)
    return name.removeprefix(f"{group}.") in _SHORT[group].split()


def _file(files: dict[str, str], value: str) -> str:
    if value not in files:
        raise ConfigurationError(f"{COMPLETION} is {value!r}; possible: {', '.join(files)}.")
    return (FOLDER / files[value]).read_text(encoding="utf-8")
