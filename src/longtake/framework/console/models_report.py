"""Table of models, for ``longtake models``: what each takes, its defaults and its licence."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TypeAlias

from rich.table import Table

from longtake.models import Defaults, ModelCard, registered
from longtake.tables import Cell, Format, console, write_json

Row: TypeAlias = dict[str, Cell]
"""A line of the table: value by column."""

_COLUMNS = ("made_from", "guidance", "timestep_per", "native_frames", "decoder", "axes")
"""What the table has a column for, besides the names."""
_NAMES = 32
"""Smallest width of the names, however narrow the terminal is."""
_STARTS = {"none": "text", "optional": "text,image,video", "always": "image,video"}
"""What a video is made from."""


def cards() -> list[ModelCard]:
    """Return the cards of every registered family, plug-ins included, by pipeline class.

    A plug-in that says nothing about itself has a card that names its pipeline only.
    """
    found: list[ModelCard] = []
    for pipeline, family in sorted(registered().items()):
        own = [card for card in family.cards if card.pipeline == pipeline]
        found += own or [ModelCard(pipeline=pipeline)]
    return found


def show(models: Sequence[ModelCard], format_: Format = "table") -> None:
    """Print models to stdout.

    Args:
        models: Which ones.
        format_: Of what is printed.
    """
    if format_ == "json":
        write_json([row_of(card) for card in models])
        return
    table = Table(title="models", show_lines=True)
    title = "model, pipeline, licence, defaults, given frames, examples"
    table.add_column(title, overflow="fold", min_width=_NAMES)
    for name in _COLUMNS:
        table.add_column(name.replace("_", " "), overflow="fold")
    for card in models:
        row = row_of(card)
        licence = card.licence or "licence unknown"
        about = [card.model or "unknown", card.pipeline, licence, *_defaults(card.defaults)]
        names = "\n".join([*about, *_given_frames(card), *card.examples])
        table.add_row(names, *(_cell(row[name]) for name in _COLUMNS))
    console().print(table)


def row_of(card: ModelCard) -> Row:
    """Return a card as columns; what is not known is ``None``.

    A ``flow_shift`` of ``None`` is the one in the folder's scheduler, a ``guidance_scale_2`` of
    ``None`` the same as ``guidance_scale``.
    """
    own = card.defaults
    return {
        "pipeline": card.pipeline,
        "made_from": None if card.start is None else _STARTS[card.start],
        **{str(kind): how for kind, how in card.honours.items()},
        "guidance": card.guidance,
        "timestep_per": card.timestep,
        "native_frames": card.native_frames,
        "decoder": card.decoder,
        "axes": ",".join(card.axes),
        "licence": card.licence,
        "height": own.height,
        "width": own.width,
        "num_frames": own.frames,
        "fps": own.fps,
        "steps": own.steps,
        "guidance_scale": own.guidance_scale,
        "guidance_scale_2": own.guidance_scale_2,
        "flow_shift": own.flow_shift,
        "examples": ",".join(card.examples) or None,
        "model": card.model,
    }


def _given_frames(card: ModelCard) -> list[str]:
    """Return how given frames are honoured as lines, none longer than the narrowest names."""
    ways = [how for how in dict.fromkeys(card.honours.values()) if how is not None]
    kinds = {way: ", ".join(k for k, how in card.honours.items() if how == way) for way in ways}
    return wrap("; ".join(f"{way}: {which}" for way, which in kinds.items()), _NAMES)


def _defaults(own: Defaults) -> list[str]:
    """Return defaults as lines, none longer than the narrowest names."""
    second = "" if own.guidance_scale_2 is None else f" and {own.guidance_scale_2:g}"
    shift = [] if own.flow_shift is None else [f"shift {own.flow_shift:g}"]
    return [
        f"{own.width} x {own.height}, {own.frames} frames at {own.fps}/s",
        f"{own.steps} steps, guidance {own.guidance_scale:g}{second}",
        *shift,
    ]


def _cell(value: Cell) -> str:
    return "unknown" if value is None else str(value).replace(",", "\n")
