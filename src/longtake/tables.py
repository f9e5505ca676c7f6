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

_SMALL: Final = 1.0
"""Numbers below it are shown with two digits that say something."""
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
        write_json([dict(row) for row in rows])
        return
    table = Table(title=title)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(title_of(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_shown(row.get(name)) for name in columns))
    console().print(table)


def show_record(title: str, record: Mapping[str, Cell]) -> None:
    """Print one row as a table of names and values, what is not known left out."""
    table = Table(title=title, show_header=False)
    for name, value in record.items():
        if value is not None:
            table.add_row(title_of(name), _shown(value))
    console().print(table)


def write_json(found: object) -> None:
    """Print what a program reads."""
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def console() -> Console:
    """Return a console as wide as the terminal, or wide enough in a pipe."""
    return Console(width=None if sys.stdout.isatty() else _PIPE)


def title_of(name: str) -> str:
    """Return a column's name as people read it: ``peak_gb`` is ``peak, GB``."""
    for ending, unit in (("_percent", ", %"), ("_gb", ", GB"), ("_mb", ", MB")):
        if name.endswith(ending):
            name = name.removesuffix(ending) + unit
    return name.replace("_", " ")


def _shown(value: Cell) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.1f}" if abs(value) >= _SMALL or not value else f"{value:.2g}"
        case int():
            return f"{value:,}"
    return value
