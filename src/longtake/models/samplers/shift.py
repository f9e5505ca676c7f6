"""Shift of noise levels by a clip's size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def shift_of(config: Mapping[str, Any], tokens: int | None) -> float | None:
    """Return the shift of a scheduler that leaves it to the clip's size, as its pipeline does.

    diffusers' pipelines compute a number that is linear in the tokens, and hand it to the
    scheduler with every clip; it is the logarithm of an ordinary shift, or that shift itself.

    Args:
        config: Of the scheduler.
        tokens: Video tokens of a clip; ``None`` for as few as the configuration speaks of.

    Returns:
        What such a scheduler would be given as its ``shift``; ``None`` where the shift is fixed.
    """
    if not config.get("use_dynamic_shifting"):
        return None
    fewest, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    number = low if tokens is None else low + (high - low) * (tokens - fewest) / (most - fewest)
    return float(number if config.get("time_shift_type") == "linear" else math.exp(number))
