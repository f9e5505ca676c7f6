"""Schema of the command line: its options, as the parser itself has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from longtake.framework.cli import LongtakeCLI


class _Taken(Exception):
    """Carries the parser out, before it has parsed."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command.

    Args:
        name: Such as ``model.steps``.
        kind: Its type, as text.
    """

    name: str
    kind: str


def options(command: str) -> list[Option]:
    """Return the options of a command."""
    parse = LongtakeCLI.parse_arguments

    def taken(self: object, parser: Any, args: object) -> None:
        raise _Taken(parser._subcommands_action.choices)

    LongtakeCLI.parse_arguments = taken  # type: ignore[method-assign]
    try:
        LongtakeCLI([command])
    except _Taken as found:
        parser = found.args[0][command]
    finally:
        LongtakeCLI.parse_arguments = parse  # type: ignore[method-assign]
    return [
        Option(action.dest, str(action._typehint))
        for action in parser._actions
        if getattr(action, "_typehint", None) is not None and not action.dest.endswith(".help")
    ]
