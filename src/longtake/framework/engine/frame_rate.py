"""Frame rate: video frames per second, a whole number or a fraction such as 24000/1001."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final, TypeAlias

from longtake.errors import ConfigurationError

FrameRate: TypeAlias = int | Fraction
"""Whole rates stay whole numbers."""

_NTSC: Final = Fraction(1000, 1001)
"""What television made of whole rates: 23.976 for 24, 29.97 for 30."""
_ROUNDED: Final = 0.005
"""How far a rate that people write is from the one they mean."""


def frame_rate(value: float | Fraction | str) -> FrameRate:
    """Return the rate that is meant: 23.976, say, is 24000/1001.

    Args:
        value: A number, or the text of one or of a fraction.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        rate = Fraction(value if "/" in str(value) else repr(_moderate(float(value))))
    except (ValueError, ZeroDivisionError, OverflowError, TypeError) as error:
        raise ConfigurationError(
            f"data.fps is {value}, but it is a number of video frames per second, such as 24, "
            f"23.976 or 24000/1001."
        ) from error
    if rate.denominator == 1:
        return int(rate)
    whole = math.ceil(rate)
    meant = whole * _NTSC
    return meant if abs(rate - meant) < _ROUNDED else rate.limit_denominator(1001)


def _moderate(rate: float) -> float:
    """Return a rate of which a fraction can be made: one of 1e999999999 would be written out.

    Raises:
        OverflowError: It is not finite.
    """
    if not math.isfinite(rate):
        raise OverflowError
    return rate


def written(rate: FrameRate) -> int | str:
    """Return a rate as YAML and JSON have it: a whole number, or the text of a fraction."""
    return rate if isinstance(rate, int) else str(rate)
