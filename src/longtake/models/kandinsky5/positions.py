"""Positions of Kandinsky 5's tokens: rotary, closer together in larger pictures."""

from __future__ import annotations

from typing import Final, final

import torch
from diffusers.models.transformers.transformer_kandinsky import get_freqs
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
        spec: Gives the patch, and how many pixels a latent is.
        device: Where the tables are needed.
    """

    def __init__(
        self, dims: tuple[int, int, int], spec: BackboneSpec, device: torch.device
    ) -> None:
        self._pixels = spec.compression.spatial
        self._tables = {
            small: AxialRotary(dims, spec.patch, device, scales=(1.0, scale, scale))
            for small, scale in _SCALES.items()
        }

    @override
    def table(self, grid: Grid) -> Rotary:
        sides = (grid.height * self._pixels, grid.width * self._pixels)
        return self._tables[all(side in _SMALL for side in sides)].table(grid)

    @override
    def rotate(self, keys: Tensor, shift: int) -> Tensor:
        return self._tables[True].rotate(keys, shift)  # along time, which is not scaled


def text_rotary(tokens: int, head_dim: int, device: torch.device) -> Rotary:
    """Return the rotary table of a prompt's tokens, which count from 0."""
    angle = torch.outer(torch.arange(tokens).float(), get_freqs(head_dim // 2))[None, :, None]
    return angle.cos().to(device), angle.sin().to(device)
