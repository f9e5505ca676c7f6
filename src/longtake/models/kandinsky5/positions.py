"""Positions of Kandinsky 5's tokens: rotary, closer together in larger pictures."""

from __future__ import annotations

from typing import Final, final

import torch
from diffusers.models.transformers.transformer_kandinsky import get_freqs
from einops import rearrange
from torch import Tensor
from typing_extensions import override

from longtake.models.base import Grid, Positions, Rotary
from longtake.models.layers.rotary import AxialRotary
from longtake.models.spec import BackboneSpec

_SMALL: Final = range(480, 854 + 1)
"""Pixels of both sides of a picture whose rows and columns the model was trained with at ``2``."""
_SCALES: Final = {True: 2.0, False: 3.16}
"""What rows and columns are divided by: of such a picture, and of another one."""


@final
class Kandinsky5Rotary(Positions):
    """Rotary positions of whole frames, and of rows and columns by the size of the picture.

    Args:
        dims: Channels of a head for frames, height and width.
        spec: Gives the patch, how many pixels a latent is, and the squares that tokens come in.
        device: Where the tables are needed.
    """

    def __init__(
        self, dims: tuple[int, int, int], spec: BackboneSpec, device: torch.device
    ) -> None:
        self._pixels, self._patch, self._square = spec.compression.spatial, spec.patch, spec.square
        self._tables = {
            small: AxialRotary(dims, spec.patch, device, scales=(1.0, scale, scale))
            for small, scale in _SCALES.items()
        }

    @override
    def table(self, grid: Grid) -> Rotary:
        sides = (grid.height * self._pixels, grid.width * self._pixels)
        cos, sin = self._tables[all(side in _SMALL for side in sides)].table(grid)
        _, height, width = self._patch
        side = self._square
        rows, columns = grid.height // height // side, grid.width // width // side
        return in_squares(cos, side, rows, columns), in_squares(sin, side, rows, columns)

    @override
    def rotate(self, keys: Tensor, shift: int) -> Tensor:
        return self._tables[True].rotate(keys, shift)  # along time, which is not scaled


def in_squares(rows: Tensor, side: int, h: int, w: int) -> Tensor:
    """Return tokens that stand line after line, ``(B, S, ...)``, square after square.

    Args:
        rows: A token each.
        side: Tokens along the side of a square.
        h: Squares of a frame, one above the other.
        w: Side by side.
    """
    pattern = "b (f h y w x) ... -> b (f h w y x) ..."
    return rearrange(rows, pattern, h=h, w=w, y=side, x=side)


def in_lines(rows: Tensor, side: int, h: int, w: int) -> Tensor:
    """Undo ``in_squares``."""
    pattern = "b (f h w y x) ... -> b (f h y w x) ..."
    return rearrange(rows, pattern, h=h, w=w, y=side, x=side)


def text_rotary(tokens: int, head_dim: int, device: torch.device) -> Rotary:
    """Return the rotary table of a prompt's tokens, which count from 0."""
    angle = torch.outer(torch.arange(tokens).float(), get_freqs(head_dim // 2))[None, :, None]
    return angle.cos().to(device), angle.sin().to(device)
