"""Rotary positions along frames, height and width."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.models.base import Grid, Positions, Rotary


@final
class AxialRotary(Positions):
    """Rotary positions whose channels are divided among frames, height and width.

    Positions are absolute latent-frame positions computed in float64: attention under RoPE
    depends on differences only, so cached keys stay valid in every window, and within a window
    no difference is larger than the window. What all windows share is computed once. A table is
    ``(1, S, 1, D / 2)`` twice in fp32: for a 14B model at 720p and windows of 16 latent frames
    about 30 MB, and one is kept for each block in flight.

    Args:
        dims: Channels of a head for frames, height and width; even, their sum the head dim.
        patch: Latent frames, height and width per token.
        device: Where the tables are needed.
        theta: Base of the frequencies.
        text_tokens: Text tokens behind the video tokens. They all stand at the top left of the
            window's origin, as if positions began there: what a model is trained with.
        scales: What positions are divided by, along frames, height and width.
    """

    def __init__(
        self,
        dims: tuple[int, int, int],
        patch: tuple[int, int, int],
        device: torch.device,
        theta: float = 10000.0,
        text_tokens: int = 0,
        scales: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        self._text_tokens = text_tokens
        self._patch = patch
        self._device = device
        self._frequencies = tuple(
            1.0 / scale / theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
            for dim, scale in zip(dims, scales, strict=True)
        )
        # The part that all windows of a video share.
        self._plane = lru_cache(maxsize=4)(self._make_plane)

    @override
    def table(self, grid: Grid) -> Rotary:
        frames, height, width = self._patch
        text, plane = self._text_tokens, self._plane(grid.height // height, grid.width // width)
        time = self._rotation(0, [position // frames for position in grid.positions[::frames]])
        origin = self._rotation(0, [grid.origin // frames])
        parts = [
            torch.cat([_table(t, p).flatten(0, 1), _table(o, p[:1])[0].expand(text, -1)])
            for t, p, o in zip(time, plane, origin, strict=True)
        ]
        cos, sin = (part[None, :, None, :] for part in parts)
        return cos, sin

    @override
    def rotate(self, keys: Tensor, shift: int) -> Tensor:
        frames = self._patch[0]
        if shift % frames:
            raise ConfigurationError(
                f"kept keys cannot move by {shift} latent frames: a token holds {frames} of them."
            )
        cos, sin = self._rotation(0, [shift // frames])
        still = keys.shape[-1] // 2 - cos.shape[-1]  # rows and columns stay where they are
        turn = pad(cos, (0, still), value=1.0), pad(sin, (0, still))
        return rotate(keys, (turn[0][None, :, None], turn[1][None, :, None]))

    def _rotation(self, axis: int, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        angle = torch.outer(torch.tensor(positions, dtype=torch.float64), self._frequencies[axis])
        # Angles are rounded to fp32 as cosines, never as angles: at frame 100,000 an fp32 angle
        # is off by 0.004.
        return angle.cos().float().to(self._device), angle.sin().float().to(self._device)

    def _make_plane(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        rows, columns = self._rotation(1, range(height)), self._rotation(2, range(width))
        cos, sin = (
            torch.cat(
                [r[:, None].expand(-1, width, -1), c[None].expand(height, -1, -1)], dim=-1
            ).flatten(0, 1)
            for r, c in zip(rows, columns, strict=True)
        )
        return cos, sin


def _table(time: Tensor, plane: Tensor) -> Tensor:
    """Join angles along time and in the plane: ``(frames, plane, D / 2)``."""
    return torch.cat(
        [time[:, None].expand(-1, len(plane), -1), plane[None].expand(len(time), -1, -1)], dim=-1
    )


def rotate(x_BSND: Tensor, rotary: Rotary) -> Tensor:
    """Apply rotary positions to interleaved channel pairs of queries or keys ``(B, S, N, D)``."""
    # As complex numbers: one pass over memory instead of eight, and the same products and sums.
    shape = (*x_BSND.shape[:-1], x_BSND.shape[-1] // 2, 2)
    pairs = torch.view_as_complex(x_BSND.float().reshape(shape))
    return torch.view_as_real(pairs * torch.complex(*rotary)).flatten(-2).to(x_BSND.dtype)
