"""Judge of made frames: color, shape, background and place of the object that they show.

Only simple picture statistics are used, for the vocabulary of :mod:`longtake.demo.shapes`:

- the background of a row is the median of its pixels (a shape covers at most 34 % of a row);
- the object's color is the median of the pixels that differ most from it;
- the object is the largest connected part of the pixels nearer to that color than to the
  background;
- its shape is told by the corners its outline has: none, three or four, by the moments of that
  symmetry about the center of mass, and it must overlap the template of that shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from longtake.demo import shapes

NONE = -1
"""Index for "nothing of the vocabulary"."""

MIN_CONTRAST = (
    0.12  # distance of object and background in RGB (0 to 1) below which nothing is there
)
MAX_COLOR_ERROR = 0.35  # distance of a color from its nearest name above which it has none
MIN_FIT = (
    0.6  # overlap (intersection over union) of object and template below which it has no shape
)
CORNERS = 1 / 3  # share of the ideal shape's corners (as moments) that an object must have
_CHUNK = 128  # frames at a time, to bound memory


@dataclass(frozen=True)
class Judgement:
    """What ``F`` frames show.

    Attributes:
        colors: Index into ``shapes.COLORS`` or :data:`NONE`, ``(F,)``.
        shapes: Index into ``shapes.SHAPES`` or :data:`NONE`, ``(F,)``.
        backgrounds: Index into ``shapes.BACKGROUNDS`` or :data:`NONE`, ``(F,)``.
        centers: Center of mass of the object, x and y in pixels, NaN where there is none,
            ``(F, 2)``.
        rgb: Color of the object, 0 to 255, ``(F, 3)``.
        fit: Overlap of the object with its shape's template, 0 to 1, ``(F,)``.
    """

    colors: Tensor
    shapes: Tensor
    backgrounds: Tensor
    centers: Tensor
    rgb: Tensor
    fit: Tensor

    def right(self, prompt: str) -> Tensor:
        """Which frames show the color and the shape of a prompt, ``(F,)`` bool."""
        color, shape, _, _ = shapes.parse_prompt(prompt)
        return (self.colors == list(shapes.COLORS).index(color)) & (
            self.shapes == shapes.SHAPES.index(shape)
        )

    def right_background(self, prompt: str) -> Tensor:
        """Which frames show the background of a prompt, ``(F,)`` bool."""
        return self.backgrounds == list(shapes.BACKGROUNDS).index(shapes.parse_prompt(prompt)[3])

    def steps(self) -> Tensor:
        """Way of the object from each frame to the next in pixels, ``(F - 1,)``."""
        return self.centers.diff(dim=0).square().sum(dim=1).sqrt()

    def color_spread(self) -> float:
        """Root mean square distance of the object's color from its mean over time, 0 to 255."""
        seen = self.rgb[~self.centers[:, 0].isnan()]
        if not len(seen):
            return float("nan")
        return float((seen - seen.mean(dim=0)).square().sum(dim=1).mean().sqrt())


def _nearest(values: Tensor, names: dict[str, tuple[float, float, float]]) -> Tensor:
    """Index of the named color nearest to each of ``(F, 3)``, or :data:`NONE`."""
    distance, index = torch.cdist(values, torch.tensor(list(names.values()))).min(dim=1)
    return index.masked_fill(distance > MAX_COLOR_ERROR, NONE)


def _object_color(pixels: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """Color of what differs from the background, and how much it does.

    Args:
        pixels: 0 to 1, ``(F, H, W, 3)``.
        ground: The background's rows, ``(F, H, 1, 3)``.

    Returns:
        Color ``(F, 3)`` and contrast ``(F,)``.
    """
    distance = torch.linalg.vector_norm(pixels - ground, dim=-1).flatten(1)
    contrast = distance.quantile(0.98, dim=1)  # the smallest shape covers 5 % of a picture
    chosen = distance >= 0.75 * contrast[:, None]
    flat = pixels.flatten(1, 2).masked_fill(~chosen[..., None], float("nan"))
    return flat.nanmedian(dim=1).values, contrast


def _largest_part(mask: Tensor) -> Tensor:
    """The largest connected part (8 neighbors) of every mask ``(F, H, W)`` bool."""
    frames, height, width = mask.shape
    labels = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width)
    labels = torch.where(mask, labels, 0.0)
    while True:  # every part takes its largest label
        spread = F.max_pool2d(labels[:, None], 3, stride=1, padding=1)[:, 0]
        spread = torch.where(mask, spread, 0.0)
        if torch.equal(spread, labels):
            break
        labels = spread
    counts = torch.zeros(frames, height * width + 1)
    counts.scatter_add_(1, labels.flatten(1).long(), mask.flatten(1).float())
    return mask & (labels == counts.argmax(dim=1).view(-1, 1, 1))


def _corners(soft: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of three-fold and four-fold symmetry, 0 for a circle.

    Args:
        soft: Share of each pixel that the object covers, ``(N, S, S)``.
        center: Its center of mass in pixels, ``(N, 2)``.

    Returns:
        How much it is like an upright triangle and like an upright square, each ``(N,)``.
    """
    grid = torch.arange(soft.shape[-1]) + 0.5
    x = grid[None, None, :] - center[:, 0, None, None]
    y = grid[None, :, None] - center[:, 1, None, None]
    square = x.square() + y.square()
    three = (soft * (3.0 * x.square() * y - y**3)).sum(dim=(1, 2))
    four = (soft * (6.0 * x.square() * y.square() - x**4 - y**4)).sum(dim=(1, 2))
    three = three / (soft * square**1.5).sum(dim=(1, 2)).clamp(min=1e-6)
    return three, four / (soft * square.square()).sum(dim=(1, 2)).clamp(min=1e-6)


def _middle_of_mass(soft: Tensor) -> Tensor:
    """Center of mass in pixels, NaN where there is nothing, ``(N, S, S)`` to ``(N, 2)``."""
    grid = torch.arange(soft.shape[-1]) + 0.5
    x, y = (soft * grid).sum(dim=(1, 2)), (soft * grid[:, None]).sum(dim=(1, 2))
    return torch.stack([x, y], dim=1) / soft.sum(dim=(1, 2))[:, None]


def _best_shape(soft: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """The shape of the objects, by their corners, and their overlap with its template.

    Args:
        soft: Share of each pixel that the object covers, ``(F, S, S)``.
        center: Its center of mass in pixels, ``(F, 2)``.

    Returns:
        Shape index and overlap (intersection over union), each ``(F,)``.
    """
    size = soft.shape[-1]
    circle, square, triangle = (shapes.SHAPES.index(n) for n in ("circle", "square", "triangle"))
    ideal = shapes.cover(torch.arange(len(shapes.SHAPES)), torch.full((3, 1, 2), 0.5), size)[:, 0]
    mass = _middle_of_mass(ideal)
    three, four = _corners(ideal, mass)
    like_three, like_four = _corners(soft, center)
    kind = torch.full_like(like_three, circle, dtype=torch.long)
    kind[like_four > CORNERS * four[square]] = square
    kind[like_three > CORNERS * three[triangle]] = triangle
    offset = mass[kind] / size - 0.5  # a triangle's mass lies low
    template = shapes.cover(kind, (center / size - offset)[:, None], size)[:, 0]
    overlap = torch.minimum(template, soft).sum(dim=(1, 2))
    return kind, overlap / torch.maximum(template, soft).sum(dim=(1, 2))


def _judge(pixels: Tensor) -> Judgement:
    """Judges a few frames, pixels 0 to 1, ``(F, S, S, 3)``."""
    size = pixels.shape[1]
    ground = pixels.median(dim=2, keepdim=True).values
    color, contrast = _object_color(pixels, ground)
    toward = color[:, None, None] - ground
    soft = ((pixels - ground) * toward).sum(-1) / toward.square().sum(-1).clamp(min=1e-6)
    soft = soft.clamp(0.0, 1.0)
    part = _largest_part((soft > 0.5) & (contrast > MIN_CONTRAST).view(-1, 1, 1))
    near = F.max_pool2d(part[:, None].float(), 3, stride=1, padding=1)[:, 0]  # with its soft edge
    soft = soft * near
    center = _middle_of_mass(soft)
    best, fit = _best_shape(soft, center.nan_to_num(size / 2))
    lit = (ground[:, :, 0] / shapes.row_shade(size)[:, None]).mean(dim=1)
    return Judgement(
        colors=_nearest(color, shapes.COLORS).masked_fill(center[:, 0].isnan(), NONE),
        shapes=best.masked_fill(fit < MIN_FIT, NONE),
        backgrounds=_nearest(lit, shapes.BACKGROUNDS),
        centers=center,
        rgb=color * 255.0,
        fit=fit,
    )


def judge(frames: Any) -> Judgement:
    """Reads what frames show.

    Args:
        frames: uint8, shape ``(F, S, S, 3)``, a tensor or an array.

    Raises:
        ValueError: If the shape or the type is another one.
    """
    pixels = torch.as_tensor(frames)
    if pixels.dtype != torch.uint8:
        raise ValueError(f"frames must be uint8, not {pixels.dtype}")
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.shape[1] != pixels.shape[2]:
        raise ValueError(f"frames must be (F, S, S, 3), not {tuple(pixels.shape)}")
    parts = [_judge(part.float() / 255.0) for part in torch.split(pixels, _CHUNK)]
    return Judgement(
        **{
            name: torch.cat([getattr(part, name) for part in parts])
            for name in Judgement.__dataclass_fields__
        }
    )


def adherence(frames: Any, prompt: str) -> float:
    """Share of the frames that show the color and the shape of the prompt.

    Args:
        frames: uint8, shape ``(F, S, S, 3)``.
        prompt: A prompt of :func:`longtake.demo.shapes.prompt`.
    """
    return float(judge(frames).right(prompt).float().mean())


def seam_steps(frames: Any, seams: Sequence[int]) -> list[float]:
    """How much larger the object's step is where two blocks meet.

    Args:
        frames: uint8, shape ``(F, S, S, 3)``.
        seams: Index of the first frame of every block but the first.

    Returns:
        For each seam, the way of the object's center from the frame before to that frame, divided
        by the median way over all frames; NaN where no object was found.
    """
    steps = judge(frames).steps()
    median = steps.nanmedian()
    return [float(steps[seam - 1] / median) for seam in seams]
