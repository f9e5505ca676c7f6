"""Rows of methods, for ``longtake methods``: what each scheduler is for and what it costs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from jsonargparse import ArgumentParser

import longtake.schedulers
from longtake.caches import FeatureCache
from longtake.models.trust import plugins_allowed
from longtake.plan.cost.methods import MethodCost, method_cost
from longtake.plugins import plug_ins
from longtake.schedulers import BlockScheduler, MethodCard
from longtake.tables import Cell

Row: TypeAlias = dict[str, Cell]
"""A line of the table: value by column."""


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
