"""Mochi's rotary positions: every head has learned how it turns along time, height and width."""

from __future__ import annotations

import math
from typing import Final, final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.models.base import Grid, Positions, Rotary

_AREA: Final = 192 * 192
"""Area of every frame in units of positions, whatever the number of its tokens."""


@final
class MochiPositions(Positions):
    """When and where every token stands; a layer turns that into its heads' rotations.

    As every head turns in its own way, cosines and sines would be ``(1, S, N, D / 2)``: 0.3 GB at
    480x848 for a window of 16 latent frames, and one table is kept for each of the blocks in
    flight, of which 64 steps make 64. So a table is the positions, three numbers per token, and
    ``rotation`` is computed in every layer: at most a percent of what a layer computes.

    Frames count from the video's first one and angles are computed in float64, so that windows
    are shifts of each other; rows and columns count from the middle of the picture. The model
    leaves text unrotated, as if it stood in the middle of a clip's first frame: it stands in the
    middle of the window's origin here.

    Args:
        frequencies: What the model has learned, ``(3, N, D / 2)``.
        patch: Latent positions per token along height and width.
        text_tokens: Text tokens behind the video tokens.
    """

    def __init__(self, frequencies: Tensor, patch: int, text_tokens: int) -> None:
        self._frequencies = frequencies.double()
        self._patch = patch
        self._text_tokens = text_tokens

    @override
    def table(self, grid: Grid) -> Rotary:
        """Return when tokens are shown, ``(1, S + L, 1, 1)``, and where, ``(1, S + L, 1, 2)``."""
        rows, columns = grid.height // self._patch, grid.width // self._patch
        scale = math.sqrt(_AREA / (rows * columns))
        place = torch.cartesian_prod(_centered(rows, scale), _centered(columns, scale))
        frames = torch.tensor(grid.positions, dtype=torch.float64)
        origin = frames.new_full((self._text_tokens,), grid.origin)
        when = torch.cat([frames.repeat_interleave(len(place)), origin])
        where = torch.cat([place.repeat(len(frames), 1), place.new_zeros(len(origin), 2)])
        device = self._frequencies.device
        return when[None, :, None, None].to(device), where[None, :, None].to(device)

    def rotation(self, table: Rotary) -> Rotary:
        """Return cosines and sines of every token and head, ``(1, S + L, N, D / 2)`` fp32."""
        position = torch.cat(table, dim=-1)
        angle = torch.einsum("bsop,pnd->bsnd", position, self._frequencies)
        return angle.cos().float(), angle.sin().float()


def _centered(count: int, scale: float) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * scale
