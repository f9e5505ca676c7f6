"""Noise levels that differ among the frames of a window, for models that take one per frame.

Tokens of one level stand side by side, in runs. Runs are cut into pieces of one size, so that a
layer sees hidden states ``(B, P, U, M)`` and a modulation ``(P, 1, M)`` per part: it is broadcast
to a piece's tokens and never written out for each of them, which would take six times the memory
of the hidden states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Final, final

from torch import Tensor

CLEAN: Final = 0.0
"""Timestep of latent frames that are finished or given."""


def level_runs(
    levels: Sequence[float], tokens_per_frame: int, tokens: range
) -> list[tuple[float, int]]:
    """Return the runs of some of a window's tokens: the level of each, and how many they are.

    Args:
        levels: Timestep of each latent frame of the window.
        tokens_per_frame: Tokens of one latent frame.
        tokens: Which tokens; those behind the window's video tokens have no level of their own.

    Returns:
        In the order of the tokens; neighbors differ, none is empty.
    """
    runs, start = [], 0
    for level, frames in groupby(levels):
        stop = start + tokens_per_frame * len(list(frames))
        count = min(stop, tokens.stop) - max(start, tokens.start)
        if count > 0:
            runs.append((level, count))
        start = stop
    return runs


def pieces(tokens: Sequence[int]) -> list[int]:
    """Cut runs into the largest pieces that all have one size.

    Whole frames give one piece per frame or fewer. Where ranks share the tokens, a cut within a
    frame makes pieces smaller, of single tokens at worst.

    Args:
        tokens: How many tokens each run has, at least 1.

    Returns:
        The run of each piece.
    """
    size = math.gcd(*tokens)
    return [run for run, count in enumerate(tokens) for _ in range(count // size)]


def in_pieces(hidden: Tensor, count: int) -> Tensor:
    """Return hidden states ``(B, S, M)`` as ``count`` pieces, ``(B, P, U, M)``: a view."""
    batch, tokens, width = hidden.shape
    return hidden.reshape(batch, count, tokens // count, width)


@final
class InPieces:
    """Processor around another one: tokens that come in pieces attend as one.

    Args:
        processor: Of a diffusers attention, for hidden states ``(B, S, M)``.
    """

    def __init__(self, processor: Callable[..., Tensor]) -> None:
        self._processor = processor

    def __call__(self, attn: Any, x: Tensor, *carried: Any) -> Tensor:
        """Attend from pieces ``(B, P, U, M)``."""
        return self._processor(attn, x.flatten(1, 2), *carried).reshape(x.shape)
