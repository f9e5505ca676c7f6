"""Listings: the tables of ``longtake models``, ``methods`` and ``strategies``, and their rows.

What longtake has of its own stands in files that ``tools/help_files.py`` makes, so that listing it
takes no import of PyTorch and the models; a test compares them. Where a plug-in is installed the
rows are made anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Final, Literal, TypeAlias, get_args

from rich.table import Table

from longtake.plugins import Kind, installed
from longtake.tables import Cell, Format, console, write_json

Listing: TypeAlias = Literal["models", "methods", "strategies"]
Row: TypeAlias = Mapping[str, Cell]
"""A line of a table: value by column."""

FOLDER: Final = Path(__file__).parent / "assets" / "listings"
LISTINGS: Final[tuple[Listing, ...]] = get_args(Listing)
_PLUG_INS: Final[Mapping[Listing, Kind]] = {
    "models": "models",
    "methods": "schedulers",
    "strategies": "strategies",
}
_COLUMNS: Final = ("made_from", "guidance", "timestep_per", "native_frames", "decoder", "axes")
"""What the table of models has a column for, besides the names."""
_KINDS: Final = ("start", "end", "keyframes", "continue")
"""Of given frames."""
_NAMES: Final = 32
"""Smallest width of models' names, however narrow the terminal is."""
_STRATEGIES: Final = 22
"""Likewise of strategies'."""
_CAPTION: Final = (
    "In latent frames, without guidance (which doubles the passes), of a video of 255 (a clip: of "
    "21). Settings: docs/methods.md."
)


def kept_rows(listing: Listing) -> list[Row] | None:
    """Return the rows of a listing as its file has them; ``None``: there are plug-ins as well."""
    if installed(_PLUG_INS[listing]):
        return None
    rows: list[Row] = json.loads((FOLDER / f"{listing}.json").read_text(encoding="utf-8"))
    return rows


def show_listing(listing: Listing, rows: Sequence[Row], format_: Format = "table") -> None:
    """Print a listing to stdout.

    Args:
        listing: Which one.
        rows: Its lines.
        format_: Of what is printed.
    """
    if format_ == "json":
        write_json([dict(row) for row in rows])
        return
    match listing:
        case "models":
            table = _models(rows)
        case "methods":
            table = _methods(rows)
        case "strategies":
            table = _strategies(rows)
    console().print(table)


def _models(rows: Sequence[Row]) -> Table:
    table = Table(title="models", show_lines=True)
    title = "model, pipeline, licence, defaults, given frames, examples"
    table.add_column(title, overflow="fold", min_width=_NAMES)
    for name in _COLUMNS:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        examples = str(row["examples"] or "").split(",")
        names = [
            row["model"] or "unknown",
            row["pipeline"],
            row["licence"] or "licence unknown",
            *_defaults(row),
            *_given_frames(row),
            *filter(None, examples),
        ]
        table.add_row("\n".join(map(str, names)), *(_column(row[name]) for name in _COLUMNS))
    return table


def _given_frames(row: Row) -> list[str]:
    """Return how given frames are honoured as lines, none longer than the narrowest names."""
    honours = {kind: row[kind] for kind in _KINDS if row[kind] is not None}
    kinds = {
        way: ", ".join(kind for kind, how in honours.items() if how == way)
        for way in dict.fromkeys(honours.values())
    }
    return wrap("; ".join(f"{way}: {which}" for way, which in kinds.items()), _NAMES)


def _defaults(row: Row) -> list[str]:
    """Return defaults as lines, none longer than the narrowest names."""
    second = "" if row["guidance_scale_2"] is None else f" and {row['guidance_scale_2']:g}"
    shift = [] if row["flow_shift"] is None else [f"shift {row['flow_shift']:g}"]
    return [
        f"{row['width']} x {row['height']}, {row['num_frames']} frames at {row['fps']}/s",
        f"{row['steps']} steps, guidance {row['guidance_scale']:g}{second}",
        *shift,
    ]


def _column(value: Cell) -> str:
    return "unknown" if value is None else str(value).replace(",", "\n")


def _methods(rows: Sequence[Row]) -> Table:
    table = Table(title="methods", show_lines=True, caption=_CAPTION)
    for title in ("method, scheduler, cache, noise", "for", "costs", "several devices"):
        table.add_column(title, overflow="fold")
    for row in rows:
        if "method" not in row:
            table.add_row(str(row["scheduler"]), "unknown", "unknown", "unknown")
            continue
        about = [row["method"], f"{row['scheduler']}, {row['cache']}, {row['noise']}", row["paper"]]
        table.add_row(
            "\n".join(str(one) for one in about if one),
            f"{row['purpose']}\nmodels: {row['models']}",
            "\n".join(_costs(row)),
            str(row["devices"]),
        )
    return table


def _costs(row: Row) -> list[str]:
    """Return what a method costs in words, a line each."""
    first, passes = row["first_block_frames"], row["frames_passed_before_first_block"]
    return [
        f"{row['frames_passed_per_frame']:.1f} passes per frame, each seeing "
        f"{row['frames_attended']:.0f}",
        f"first {first} after {passes:,} passes",
        f"window {row['widest_window_frames']}, held {row['frames_held']}: {row['memory']}",
        "endless" if row["endless"] == "yes" else "finite",
    ]


def _strategies(rows: Sequence[Row]) -> Table:
    table = Table(title="strategies", show_lines=True)
    table.add_column("strategy, options", min_width=_STRATEGIES)
    for title in ("divides", "for", "video"):
        table.add_column(title, overflow="fold")
    for row in rows:
        about = [row["strategy"], row["paper"], *str(row["options"] or "").split(", ")]
        names = "\n".join(str(one) for one in about if one)
        table.add_row(names, *(str(row[name] or "unknown") for name in ("divides", "for", "video")))
    return table
