"""Rows of strategies, for ``longtake strategies``: what each divides, when, and its options."""

from __future__ import annotations

import os
from inspect import signature
from typing import Final

import longtake.strategies
from longtake.models.trust import plugins_allowed
from longtake.plugins import plug_ins
from longtake.strategies import ParallelStrategy, PlannedStrategy
from longtake.strategies.automatic import Automatic
from longtake.tables import Cell

_CONTRACTS: Final = (ParallelStrategy, PlannedStrategy)


def strategies() -> list[type[ParallelStrategy]]:
    """Return longtake's strategies and those of installed plug-ins, by name."""
    own = [getattr(longtake.strategies, name) for name in longtake.strategies.__all__]
    found = [one for one in own if isinstance(one, type) and issubclass(one, ParallelStrategy)]
    found = [Automatic, *(one for one in found if one not in _CONTRACTS)]
    if plugins_allowed(os.environ):
        found += plug_ins("strategies")
    return sorted(found, key=lambda strategy: strategy.__name__)


def row_of(strategy: type[ParallelStrategy]) -> dict[str, Cell]:
    """Return a strategy as columns; what it does not say of itself is ``None``."""
    card, options = strategy.card, signature(strategy).parameters.values()
    return {
        "strategy": strategy.__name__,
        "divides": None if card is None else card.splits,
        "for": None if card is None else card.purpose,
        "video": None if card is None else card.video,
        "options": ", ".join(f"{one.name}: {_yaml(one.default)}" for one in options) or None,
        "paper": None if card is None else card.paper,
    }


def _yaml(default: object) -> str:
    named = {None: "null", True: "true", False: "false"}
    return named[default] if isinstance(default, bool | None) else str(default)
