"""Tables for people, JSON for programs: rows of what a command has found, on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

from rich.console import Console
from rich.table import Table

Cell: TypeAlias = int | float | str | bool | None
Format: TypeAlias = Literal["table", "json"]
"""``table``: for people, on a terminal and in a pipe; ``json``: for programs."""
ListFormat: TypeAlias = Literal["table", "json", "lines"]
"""The same, and ``key=value`` lines, which shells split at spaces."""

_PIPE: Final = 160
"""Columns of a table that no terminal shows."""


def show_rows(title: str, rows: Sequence[Mapping[str, Cell]], format_: Format = "table") -> None:
    """Print rows that have the same columns.

    Args:
        title: Above the table.
        rows: Value by column.
        format_: Of what is printed.
    """
    if format_ == "json":
        show_json(rows)
        return
    table = Table(title=title)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(
            name.replace("_", " "), justify="right" if numeric else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(_shown(row.get(name)) for name in columns))
    console().print(table)


def console() -> Console:
    """Return what prints tables: as wide as the terminal, or wide enough in a pipe."""
    return Console(width=None if sys.stdout.isatty() else _PIPE)


def show_json(rows: Sequence[Mapping[str, Cell]]) -> None:
    """Print rows for programs."""
    sys.stdout.write(json.dumps([dict(row) for row in rows], indent=2) + "\n")


def _shown(value: Cell) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.1f}"
        case int():
            return f"{value:,}"
    return value
