"""Positions of CogVideoX's tokens: rotary (5B), or added: waves (2B), learned (5B I2V)."""

from __future__ import annotations

from functools import lru_cache
from typing import final

import torch
from diffusers.models.embeddings import (
    get_1d_sincos_pos_embed_from_grid,
    get_3d_sincos_pos_embed,
)
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor
from typing_extensions import override

from longtake.models.base import Grid, Positions, Rotary

_THETA = 10000.0
"""Base of the rotary frequencies."""


@final
class CogVideoXRotary(Positions):
    """Rotary positions of whole frames, and of rows and columns as the pipeline scales them.

    The picture's tokens fill the plane of the trained size as far as its shape allows, centered:
    another size stands between the trained rows and columns. In CogVideoX 1.5 they stand where they
    are, whatever the size. Frames count from the video's first
    one; angles are computed in float64, so that windows are shifts of each other. The model
    leaves text unrotated, as if it stood at row 0 and column 0 of a clip's first frame: it stands
    there in the window's origin here.

    Args:
        head_dim: Size of a head; a quarter of it turns with the frames.
        patch: Latent positions per token along height and width.
        plane: Rows and columns of tokens that the model was trained with; ``None``: no matter.
        text_tokens: Text tokens behind the video tokens.
        device: Where the tables are needed.
    """

    def __init__(
        self,
        head_dim: int,
        patch: int,
        plane: tuple[int, int] | None,
        text_tokens: int,
        device: torch.device,
    ) -> None:
        self._patch = patch
        self._plane = plane
        self._text_tokens = text_tokens
        self._device = device
        self._frequencies = [
            _THETA ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
            for dim in (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
        ]

    @override
    def table(self, grid: Grid) -> Rotary:
        size = (grid.height // self._patch, grid.width // self._patch)
        start, stop = (0, 0), size
        if self._plane is not None:
            rows, columns = self._plane
            start, stop = get_resize_crop_region_for_grid(size, columns, rows)
        video = torch.cartesian_prod(
            torch.tensor(grid.positions, dtype=torch.float64),
            *(_spread(*axis) for axis in zip(start, stop, size, strict=True)),
        )
        text = video.new_tensor([[grid.origin, 0, 0]]).expand(self._text_tokens, -1)
        places = torch.cat((video, text)).unbind(dim=1)
        turns = zip(places, self._frequencies, strict=True)
        angle = torch.cat([torch.outer(place, frequency) for place, frequency in turns], dim=1)
        angle = angle[None, :, None]
        return angle.cos().float().to(self._device), angle.sin().float().to(self._device)


@final
class CogVideoXLearned:
    """Learned positions, which are added to the video's tokens (5B from an image).

    There are some for the trained clip's frames, rows and columns, and no others.

    Args:
        table: Of the clip's tokens, frame after frame, ``(S, M)``; on the device.
        plane: Rows and columns of tokens.
    """

    def __init__(self, table: Tensor, plane: tuple[int, int]) -> None:
        self._frames = table.reshape(-1, plane[0] * plane[1], table.shape[1])

    def add(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Return a window's tokens ``(1, S, M)``, each of which is told where it stands."""
        places: Tensor = self._frames[list(grid.positions)].flatten(0, 1)
        return tokens + places.to(tokens.dtype)


@final
class CogVideoXWaves:
    """Sines and cosines of frame, row and column, which are added to the video's tokens.

    They are the formula's at any frame, but the model has seen those of its clips' frames only:
    unlike with rotary positions, later frames are something new to it.

    Args:
        model_dim: Size of a token ``M``; a quarter of it tells the frame.
        patch: Latent positions per token along height and width.
        scales: Rows (or columns), and latent frames, per unit of the waves' argument.
    """

    def __init__(self, model_dim: int, patch: int, scales: tuple[float, float]) -> None:
        self._model_dim = model_dim
        self._patch = patch
        self._scales = scales
        # The part that all windows of a video share.
        self._plane = lru_cache(maxsize=4)(self._make_plane)

    def add(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Return a window's tokens ``(1, S, M)``, each of which is told where it stands."""
        plane = self._plane(grid.height // self._patch, grid.width // self._patch).to(tokens)
        frames = torch.tensor(grid.positions, dtype=torch.float64)
        time = get_1d_sincos_pos_embed_from_grid(self._model_dim // 4, frames / self._scales[1])
        waves = torch.cat(
            (
                time.to(tokens)[:, None].expand(-1, len(plane), -1),
                plane[None].expand(len(frames), -1, -1),
            ),
            dim=2,
        )
        return tokens + waves.flatten(0, 1)

    def _make_plane(self, rows: int, columns: int) -> Tensor:
        """Return the waves of rows and columns, ``(rows * columns, 3 M / 4)``."""
        waves: Tensor = get_3d_sincos_pos_embed(
            self._model_dim, (columns, rows), 1, *self._scales, output_type="pt"
        )
        return waves[0, :, self._model_dim // 4 :]


def _spread(start: float, stop: float, count: int) -> Tensor:
    """Return ``count`` positions, the first of them ``start``."""
    last = stop * (count - 1) / count
    return torch.linspace(start, last, count, dtype=torch.float64)
