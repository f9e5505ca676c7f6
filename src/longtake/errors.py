"""Errors that are the user's to mend: printed as one sentence, never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LongtakeError(Exception):
    """Base of every error that longtake raises on purpose.

    The message says what was asked, the numbers, why it cannot be, and the nearest valid choice.
    """


class ConfigurationError(LongtakeError, ValueError):
    """A setting that cannot work: refused before any weight is read."""


class NoPlan(ConfigurationError):
    """A plan that was asked for of a strategy that gives no actions."""


class ModelError(LongtakeError):
    """A model folder that is missing, unknown, unsafe or incomplete."""


class OutputError(LongtakeError):
    """An output that cannot be written where it was asked for."""


class RankFailure(LongtakeError):
    """Another rank has died, failed or stalled, so this one cannot go on.

    The message names this rank, what it waited for (action, block, step) and the rank at fault.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name most like ``name``, for the end of an error message."""
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.0)
    return lowered[close[0]] if close else "none"
