"""LTX-Video's rotary positions: seconds and pixels, over the width of all heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from longtake.models.base import Grid, Positions, Rotary
from longtake.models.spec import BackboneSpec

_FPS: Final = 25
"""Frame rate that positions in time are counted with: the pipeline's default."""


@final
class LTXPositions(Positions):
    """Rotary positions whose frequencies run through all heads, not through each one anew.

    A table is therefore ``(1, S, N, D / 2)``: of the ``M / 2`` channel pairs, the three axes take
    one after another in turns. Frequencies are those that diffusers computes in fp32, angles are
    float64: they reach 15,708 within a picture, which fp32 rounds by 0.001, and more along a long
    video.

    longtake has no frame rate of the model's own, so ``data.fps`` says how fast a video is
    played, and positions are those of the pipeline's default, 25.

    Args:
        rope: diffusers' module: its sizes, not its computation.
        spec: Gives heads and compression.
        device: Where tables are needed.
        lead: Video frames by which every latent frame but the video's first stands earlier: since
            LTX-Video 0.9.5 the first one counts as the one video frame that it is.
    """

    def __init__(self, rope: Any, spec: BackboneSpec, device: torch.device, lead: int = 0) -> None:
        self._heads, self._device, self._lead = spec.heads, device, lead
        spatial, self._temporal = spec.compression.spatial, spec.compression.temporal
        self._steps = (
            1 / _FPS / rope.base_num_frames,
            spatial / rope.base_height,
            spatial / rope.base_width,
        )
        exponents = torch.linspace(0.0, 1.0, rope.dim // 6)
        self._frequencies = (rope.theta**exponents * math.pi / 2).double()
        self._still = rope.dim // 2 - 3 * len(self._frequencies)

    @override
    def table(self, grid: Grid) -> Rotary:
        starts = [self._temporal * frame for frame in grid.positions]
        # Warm-up blocks stand before the first frame, at the distances of the start of a clip.
        times = [max(start - self._lead, min(start, 0)) for start in starts]
        spans = times, range(grid.height), range(grid.width)
        angles = [
            torch.outer(2 * step * torch.tensor(span, dtype=torch.float64) - 1, self._frequencies)
            for span, step in zip(spans, self._steps, strict=True)
        ]
        cos = self._join([angle.cos() for angle in angles], still=1.0)
        return cos, self._join([angle.sin() for angle in angles], still=0.0)

    def _join(self, parts: Sequence[Tensor], still: float) -> Tensor:
        """Put what is known of frames, rows and columns together; the first pairs stand still."""
        time, row, column = (part.float().to(self._device) for part in parts)
        size = (len(time), len(row), len(column), -1)
        axes = time[:, None, None].expand(size), row[:, None].expand(size), column.expand(size)
        pairs = torch.stack(axes, dim=-1).flatten(0, 2).flatten(1)
        table = pad(pairs, (self._still, 0), value=still)
        return table.view(1, len(table), self._heads, -1)
