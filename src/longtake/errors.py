"""Errors that are the user's to mend: printed as one sentence, never as a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar, Final

_CLOSE: Final = 0.6
"""How much alike two names are, from 0 to 1, of which one may have been meant by the other."""


class LongtakeError(Exception):
    """Base of every error that longtake raises on purpose.

    The message says what was asked, the numbers, why it cannot be, and the nearest valid choice.

    Attributes:
        code: Of the class, printed behind the message; ``docs/errors.md`` lists them all.
    """

    code: ClassVar[str] = "LT-ERROR"


class ConfigurationError(LongtakeError, ValueError):
    """A setting that cannot work: refused before any weight is read.

    The setting stands in a YAML file, on the command line, in a prompt file or in an environment
    variable of a launcher. The message names it, and the nearest value that can work.
    """

    code: ClassVar[str] = "LT-CONFIG"


class NoPlan(ConfigurationError):
    """A plan that was asked for of a strategy that gives no actions.

    Choose a strategy that is planned, such as ``DualParal``, or run without a plan file.
    """

    code: ClassVar[str] = "LT-NOPLAN"


class ModelError(LongtakeError):
    """A model folder that is missing, unknown, unsafe or incomplete.

    Or a LoRA, weights or a checkpoint. The message names the file and what is wrong in it; load it
    again from where it was published.
    """

    code: ClassVar[str] = "LT-MODEL"


class OutputError(LongtakeError):
    """An output that cannot be written where it was asked for.

    The disk is full, the folder is not empty (``--overwrite true`` replaces it) or not writable.
    """

    code: ClassVar[str] = "LT-OUTPUT"


class NumbersError(LongtakeError):
    """Numbers that are not finite (NaN or infinite), which would make a black video.

    The message names the rank, the block, the step and the layer that made the first one. Mostly
    weights, a LoRA's scale or a guidance scale that are too large for ``model.dtype``. Of the VAE's
    pictures it names the block.
    """

    code: ClassVar[str] = "LT-NUMBERS"


class RankFailure(LongtakeError):
    """Another rank has died, failed or stalled, so this one cannot go on.

    The message names this rank, what it waited for (action, block, step) and the rank at fault;
    look for what that one has said.
    """

    code: ClassVar[str] = "LT-RANK"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name most like ``name``, for the end of an error message."""
    return _most_like(name, known, 0.0) or "none"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``; the nearest is ...``, or nothing where no known name is like ``name``."""
    close = _most_like(name, known, _CLOSE)
    return f"; the nearest is {close}" if close else ""


def _most_like(name: str, known: Iterable[str], cutoff: float) -> str | None:
    lowered = {candidate.lower(): candidate for candidate in sorted(known)}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=cutoff)
    return lowered[close[0]] if close else None
