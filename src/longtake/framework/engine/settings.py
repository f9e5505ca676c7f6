"""Settings of a run: what the user gave, and the model's own where nothing was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from longtake.framework.engine.generation_config import GenerationConfig
from longtake.models import Defaults

_OPEN = frozenset(option.name for option in fields(GenerationConfig)).intersection(
    setting.name for setting in fields(Defaults)
)
"""Options ``model.*`` that are the model's own where they are left out."""


def settled(generation_config: GenerationConfig, defaults: Defaults, experts: int) -> Defaults:
    """Return a model's settings with those that the user gave in their place.

    Args:
        generation_config: What the user gave.
        defaults: Of the model.
        experts: Sets of weights that the model has.
    """
    given = {
        name: value for name in _OPEN if (value := getattr(generation_config, name)) is not None
    }
    given["steps"] = generation_config.steps_or(defaults.steps)
    if "guidance_scale" in given:  # whoever gives one scale means both
        given.setdefault("guidance_scale_2", None)
    found = replace(defaults, **given)
    if experts == 1:
        return replace(found, guidance_scale_2=None)
    if found.guidance_scale_2 is None:
        return replace(found, guidance_scale_2=found.guidance_scale)
    return found


def settled_options(settings: Defaults) -> Mapping[str, Any]:
    """Return the options ``model.*`` that settings stand for: value by name."""
    return {name: value for name, value in asdict(settings).items() if name in _OPEN}
