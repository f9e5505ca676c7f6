"""Configuration files: what the parser itself would not refuse, or not come to an end with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import yaml
from jsonargparse import Namespace

from longtake.errors import ConfigurationError

_OPTIONS: Final = ("--config", "-c")
_GROUPS: Final = ("trainer", "model", "data", "video")
_SHOWN: Final = 100
_BYTES: Final = 1_000_000
_VALUES: Final = 100_000
_DEPTH: Final = 100


def check_files(args: Sequence[str]) -> None:
    """Refuse configuration files that the parser would not come to an end with.

    What else is wrong in a file, or that there is none, is the parser's to say.

    Args:
        args: Of the command.

    Raises:
        ConfigurationError: A file holds no options, names another file, is too large, nested too
            deeply, or its aliases (``*name``) contain themselves or stand for too many values.
    """
    for file in _files(args):
        if not os.path.isfile(file):  # never an error, as with Path, whatever is given as a name
            continue
        if file.stat().st_size > _BYTES:
            raise ConfigurationError(
                f"the configuration {file} has {file.stat().st_size:,} bytes; a file of more than "
                f"{_BYTES:,} is none."
            )
        try:
            tree = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (yaml.YAMLError, UnicodeDecodeError, OSError, ValueError):
            continue  # the parser says where
        except RecursionError as error:
            raise _too_deep(file) from error
        if not isinstance(tree, yaml.MappingNode):
            raise ConfigurationError(
                f"the configuration {file} {'is empty' if tree is None else 'holds no options'}; "
                f"it holds options by name, such as model: {{pipeline: demo}}."
            )
        _check_names(file, tree)
        _count(file, tree, {}, ())


def check_groups(config: Namespace) -> None:
    """Refuse a group of options that a file gives as something else.

    Args:
        config: Of a command, as parsed.

    Raises:
        ConfigurationError: Names the group.
    """
    for name in _GROUPS:
        value = config.get(name)
        if name in config and not isinstance(value, Namespace):
            raise ConfigurationError(
                f"{name} is {str(value)[:_SHOWN]!r}, but it must hold options by name; see "
                f"longtake predict --help."
            )


def _files(args: Sequence[str]) -> Iterator[Path]:
    for place, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in _OPTIONS and equals:
            yield Path(value)
        elif name in _OPTIONS and place + 1 < len(args):
            yield Path(args[place + 1])


def _check_names(file: Path, tree: yaml.MappingNode) -> None:
    """Refuse a file that names another: the parser would print what that one holds."""
    for key, value in tree.value:
        if key.value == "config":
            raise ConfigurationError(
                f"the configuration {file} names another one (config, line "
                f"{value.start_mark.line + 1}); give both on the command line, --config A "
                f"--config B: the later one wins."
            )


def _count(file: Path, node: yaml.Node, known: dict[int, int], above: tuple[yaml.Node, ...]) -> int:
    """Return how many values a node stands for, aliases written out."""
    if any(node is one for one in above):
        raise ConfigurationError(
            f"the configuration {file} has an alias (*name) within the value that it stands for, "
            f"line {node.start_mark.line + 1}; write the value out."
        )
    if len(above) > _DEPTH:
        raise _too_deep(file)
    if id(node) not in known:
        inner = [*node.value] if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        below = (*above, node)
        known[id(node)] = 1 + sum(_count(file, part, known, below) for part in inner)
    if known[id(node)] > _VALUES:
        raise ConfigurationError(
            f"the configuration {file} stands for more than {_VALUES:,} values, by its aliases "
            f"(*name); write out what is meant."
        )
    return known[id(node)]


def _too_deep(file: Path) -> ConfigurationError:
    return ConfigurationError(
        f"the configuration {file} is nested more than {_DEPTH} levels deep; no option is."
    )
