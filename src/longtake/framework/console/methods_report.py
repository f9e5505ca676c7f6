"""Table of methods, for ``longtake methods``: what each scheduler is for and what it costs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from jsonargparse import ArgumentParser
from rich.table import Table

import longtake.schedulers
from longtake.caches import FeatureCache
from longtake.models.trust import plugins_allowed
from longtake.plan.cost.methods import MethodCost, method_cost
from longtake.plugins import plug_ins
from longtake.schedulers import BlockScheduler, MethodCard
from longtake.tables import Cell, Format, console, write_json

Row: TypeAlias = dict[str, Cell]
"""A line of the table: value by column."""

_CAPTION = (
    "In latent frames, without guidance (which doubles the passes), of a video of 255 (a clip: of "
    "21). Settings: docs/methods.md."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A scheduler, what it says of one method that it runs, and what that costs.

    Args:
        scheduler: Its class.
        card: ``None``: it says nothing of itself.
        cost: In latent frames; ``None`` without a card.
    """

    scheduler: type[BlockScheduler]
    card: MethodCard | None = None
    cost: MethodCost | None = None


def schedulers() -> list[type[BlockScheduler]]:
    """Return longtake's schedulers and those of installed plug-ins, by name."""
    own = [getattr(longtake.schedulers, name) for name in longtake.schedulers.__all__]
    found = [one for one in own if issubclass(one, BlockScheduler) and one is not BlockScheduler]
    if plugins_allowed(os.environ):
        found += plug_ins("schedulers")
    return sorted(found, key=lambda scheduler: scheduler.__name__)


def methods() -> Iterator[Method]:
    """Yield all methods; a scheduler without a card is one. Counting takes a moment for each."""
    for scheduler in schedulers():
        for card in scheduler.cards:
            yield Method(scheduler=scheduler, card=card, cost=cost_of(card))
        if not scheduler.cards:
            yield Method(scheduler=scheduler)


def made(card: MethodCard) -> tuple[BlockScheduler, FeatureCache]:
    """Return the scheduler and the cache that a card's settings make."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--scheduler", type=BlockScheduler)
    parser.add_argument("--cache", type=FeatureCache)
    options = [f"--{name}={card.settings[name]}" for name in ("scheduler", "cache")]
    built = parser.instantiate(parser.parse_args(options))
    return built.scheduler, built.cache


def cost_of(card: MethodCard) -> MethodCost:
    """Return what a card's method costs."""
    scheduler, cache = made(card)
    return method_cost(scheduler, cache, card.steps, card.latent_frames)


def show(found: Sequence[Method], format_: Format = "table") -> None:
    """Print methods to stdout.

    Args:
        found: Which ones.
        format_: Of what is printed.
    """
    if format_ == "json":
        write_json([row_of(method) for method in found])
        return
    table = Table(title="methods", show_lines=True, caption=_CAPTION)
    for title in ("method, scheduler, cache, noise", "for", "costs", "several devices"):
        table.add_column(title, overflow="fold")
    for method in found:
        table.add_row(*_cells(method))
    console().print(table)


def row_of(method: Method) -> Row:
    """Return a method as columns; what is not known is ``None``."""
    card, cost = method.card, method.cost
    row: Row = {"scheduler": method.scheduler.__name__}
    if card is not None:
        _, cache = made(card)
        row |= {"cache": type(cache).__name__, "noise": card.settings["noise"]}
        row |= {"steps": card.steps, "method": card.method, "purpose": card.purpose}
        row |= {"models": card.models, "paper": card.paper, "devices": card.scales}
    if cost is not None:
        row |= {
            "frames_passed_per_frame": round(cost.passes, 1),
            "frames_attended": round(cost.keys, 1),
            "frames_passed_before_first_block": cost.first,
            "first_block_frames": cost.first_frames,
            "widest_window_frames": cost.widest,
            "frames_held": cost.held,
            "memory": "flat" if cost.flat else "grows",
            "endless": "yes" if cost.endless else "no",
        }
    return row


def costs_of(cost: MethodCost) -> list[str]:
    """Return a cost in words, a line each."""
    return [
        f"{cost.passes:.1f} passes per frame, each seeing {cost.keys:.0f}",
        f"first {cost.first_frames} after {cost.first:,} passes",
        f"window {cost.widest}, held {cost.held}: {'flat' if cost.flat else 'grows'}",
        "endless" if cost.endless else "finite",
    ]


def _cells(method: Method) -> list[str]:
    card, cost, name = method.card, method.cost, method.scheduler.__name__
    if card is None or cost is None:
        return [name, "unknown", "unknown", "unknown"]
    _, cache = made(card)
    own = f"{name}, {type(cache).__name__}, {card.settings['noise']}"
    about = [card.method, own, *([card.paper] if card.paper else [])]
    return [
        "\n".join(about),
        f"{card.purpose}\nmodels: {card.models}",
        "\n".join(costs_of(cost)),
        card.scales,
    ]
