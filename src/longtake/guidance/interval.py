"""Interval of denoising steps, as shares of all of them."""

from __future__ import annotations

from longtake.errors import ConfigurationError
from longtake.guidance.base import GuidedStep


def check_interval(owner: object, start: float, stop: float) -> None:
    """Refuse shares of the steps that are none.

    Args:
        owner: The guidance whose options they are.
        start: Share of the steps before the first one of the interval.
        stop: Share of the steps up to its end.

    Raises:
        ConfigurationError: Says which are possible.
    """
    if not 0.0 <= start < 1.0 or not start <= stop <= 1.0:
        raise ConfigurationError(
            f"{type(owner).__name__} cannot guide from {start:g} to {stop:g} of the steps: give "
            f"shares of them, 0 <= start < 1 and start <= stop <= 1 (0 to 1: all steps)."
        )


def is_within(at: GuidedStep, start: float, stop: float, *, after_start: bool = False) -> bool:
    """Return whether a step is in an interval.

    Args:
        at: The step.
        start: Share of the steps before the first one of the interval.
        stop: Share of the steps up to its end.
        after_start: Whether the first one is left out too, as layer perturbation has it.
    """
    first = int(start * at.steps) + after_start
    return first <= at.step < int(stop * at.steps)
