"""Shapes: synthetic clips of one colored shape that bounces over a plain background.

The clips are what the demo model is trained on and what :mod:`longtake.demo.judge` reads. A
clip is named by four words (color, shape, motion, background), so whether a made video follows its
prompt can be decided by a program.

Coordinates are in units of the picture's side, x to the right and y downwards. Pictures are drawn
from signed distances, one pixel of edge softness, so they are anti-aliased at every size.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.15, 0.15),
    "green": (0.15, 0.75, 0.25),
    "blue": (0.20, 0.35, 0.95),
    "yellow": (0.95, 0.85, 0.15),
    "purple": (0.65, 0.25, 0.85),
    "white": (0.95, 0.95, 0.95),
}
"""RGB of the shape, 0 to 1."""

SHAPES: tuple[str, ...] = ("circle", "square", "triangle")

MOTIONS: dict[str, tuple[float, float]] = {
    "horizontally": (1.0, 0.0),
    "vertically": (0.0, 1.0),
    "diagonally": (0.7071, 0.7071),
}
"""Share of the speed that goes into x and y."""

BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "black": (0.03, 0.03, 0.05),
    "gray": (0.35, 0.35, 0.38),
    "teal": (0.05, 0.32, 0.35),
    "orange": (0.55, 0.28, 0.08),
}
"""RGB of the background before its shade (:func:`row_shade`), 0 to 1."""

RADIUS = 0.17
"""Half the extent of a shape, in picture sides."""

SPEED = 1.0 / 24.0
"""Way per frame, in units of the free width (the picture's side less the shape)."""

_SQUARE_HALF = 0.88  # a square of half side 0.88 r has about the area of the circle
_TRIANGLE_HALF_HEIGHT = 0.9  # bounding box 2 r x 1.8 r, so that it stays inside the picture


@dataclass(frozen=True)
class Clips:
    """What a batch of ``B`` clips shows.

    Attributes:
        colors: Index into :data:`COLORS`, shape ``(B,)``.
        shapes: Index into :data:`SHAPES`, shape ``(B,)``.
        motions: Index into :data:`MOTIONS`, shape ``(B,)``.
        backgrounds: Index into :data:`BACKGROUNDS`, shape ``(B,)``.
        phases: Place on each axis' way forth (0 to 1) and back (1 to 2) at frame 0, ``(B, 2)``.
        signs: Direction in which the phase runs, +1 or -1, ``(B, 2)``.
    """

    colors: Tensor
    shapes: Tensor
    motions: Tensor
    backgrounds: Tensor
    phases: Tensor
    signs: Tensor

    def __len__(self) -> int:
        """Number of clips."""
        return int(self.colors.shape[0])

    def prompts(self) -> list[str]:
        """The prompt of every clip."""
        rows = torch.stack([self.colors, self.shapes, self.motions, self.backgrounds], dim=1)
        words = (list(COLORS), list(SHAPES), list(MOTIONS), list(BACKGROUNDS))
        return [
            prompt(*(names[i] for names, i in zip(words, row, strict=True)))
            for row in rows.tolist()
        ]


def prompt(color: str, shape: str, motion: str, background: str) -> str:
    """The sentence that names a clip.

    Raises:
        ValueError: If a word is not in the vocabulary.
    """
    for word, known in (
        (color, COLORS),
        (shape, SHAPES),
        (motion, MOTIONS),
        (background, BACKGROUNDS),
    ):
        if word not in known:
            raise ValueError(f"{word!r} is not one of {', '.join(known)}")
    return f"a {color} {shape} moving {motion} on a {background} background"


def parse_prompt(text: str) -> tuple[str, str, str, str]:
    """The color, shape, motion and background of a prompt as :func:`prompt` makes it.

    Each ``a`` may also be an ``an``, as in "on an orange background".

    Raises:
        ValueError: If the text is not such a prompt.
    """
    words = ["a" if word == "an" else word for word in text.split()]
    if len(words) == 9:
        found = (words[1], words[2], words[4], words[7])
        known: list[Collection[str]] = [COLORS, SHAPES, MOTIONS, BACKGROUNDS]
        of_each = all(word in names for word, names in zip(found, known, strict=True))
        if of_each and words == prompt(*found).split():
            return found
    raise ValueError(f"not a prompt of this model: {text!r}; an example: {all_prompts()[0]!r}")


def all_prompts() -> list[str]:
    """All 216 prompts, the background varying fastest."""
    return [prompt(*words) for words in product(COLORS, SHAPES, MOTIONS, BACKGROUNDS)]


def sample_clips(count: int, generator: torch.Generator) -> Clips:
    """Draws clips at random, every word and starting place equally likely.

    Args:
        count: Number of clips.
        generator: Source of the random numbers.
    """

    def draw(known: int) -> Tensor:
        return torch.randint(known, (count,), generator=generator)

    return Clips(
        colors=draw(len(COLORS)),
        shapes=draw(len(SHAPES)),
        motions=draw(len(MOTIONS)),
        backgrounds=draw(len(BACKGROUNDS)),
        phases=torch.rand(count, 2, generator=generator) * 2.0,
        signs=torch.randint(0, 2, (count, 2), generator=generator) * 2.0 - 1.0,
    )


def clip_of_prompt(text: str, generator: torch.Generator) -> Clips:
    """One clip that shows a prompt, its starting place drawn at random."""
    color, shape, motion, background = parse_prompt(text)
    drawn = sample_clips(1, generator)
    return Clips(
        colors=torch.tensor([list(COLORS).index(color)]),
        shapes=torch.tensor([SHAPES.index(shape)]),
        motions=torch.tensor([list(MOTIONS).index(motion)]),
        backgrounds=torch.tensor([list(BACKGROUNDS).index(background)]),
        phases=drawn.phases,
        signs=drawn.signs,
    )


def centers(clips: Clips, frames: int, first_frame: int = 0) -> Tensor:
    """The shape's center in every frame.

    Args:
        clips: What to show.
        frames: Number of frames.
        first_frame: Time of the first one, in frames.

    Returns:
        x and y in picture sides, shape ``(B, frames, 2)``.
    """
    time = torch.arange(first_frame, first_frame + frames, dtype=torch.float32)
    direction = torch.tensor(list(MOTIONS.values()))[clips.motions] * clips.signs
    phase = clips.phases[:, None] + direction[:, None] * (SPEED * time)[None, :, None]
    phase = phase % 2.0
    place = torch.where(phase > 1.0, 2.0 - phase, phase)
    return RADIUS + place * (1.0 - 2.0 * RADIUS)


def _distance(shapes: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Signed distance to the edge of each clip's shape, negative inside.

    Args:
        shapes: Shape index, ``(B,)``.
        dx: Horizontal distance from the center, ``(B, F, 1, W)``.
        dy: Vertical distance from the center, ``(B, F, H, 1)``.

    Returns:
        Distances in picture sides, ``(B, F, H, W)``.
    """
    out = dx.new_empty(dx.shape[0], dx.shape[1], dy.shape[2], dx.shape[3])
    height = RADIUS * _TRIANGLE_HALF_HEIGHT
    slant = (4.0 * height**2 + RADIUS**2) ** 0.5
    for index, name in enumerate(SHAPES):
        rows = shapes == index
        x, y = dx[rows].abs(), dy[rows]
        if name == "circle":
            out[rows] = (x.square() + y.square()).sqrt() - RADIUS
        elif name == "square":
            out[rows] = torch.maximum(x, y.abs()) - RADIUS * _SQUARE_HALF
        else:  # apex up: one slanted side (mirrored by the absolute value) and the base
            side = (2.0 * height * x - RADIUS * (y + height)) / slant
            out[rows] = torch.maximum(side, y - height)
    return out


def cover(shapes: Tensor, center: Tensor, size: int = 64) -> Tensor:
    """The share of every pixel that shapes at given places cover.

    Args:
        shapes: Index into :data:`SHAPES`, ``(B,)``.
        center: x and y in picture sides, ``(B, F, 2)``.
        size: Side of the picture in pixels.

    Returns:
        0 to 1, shape ``(B, F, size, size)``, fp32.
    """
    grid = (torch.arange(size) + 0.5) / size
    dx = grid[None, None, None, :] - center[..., 0, None, None]
    dy = grid[None, None, :, None] - center[..., 1, None, None]
    return (0.5 - _distance(shapes, dx, dy) * size / 1.5).clamp(0.0, 1.0)


def coverage(clips: Clips, frames: int, size: int = 64, first_frame: int = 0) -> Tensor:
    """The share of every pixel that the shape covers in clips.

    Args:
        clips: What to show.
        frames: Number of frames.
        size: Side of the picture in pixels.
        first_frame: Time of the first frame, in frames.

    Returns:
        0 to 1, shape ``(B, frames, size, size)``, fp32.
    """
    return cover(clips.shapes, centers(clips, frames, first_frame), size)


def row_shade(size: int = 64) -> Tensor:
    """Brightness of the background's rows, lighter at the top, ``(size,)``."""
    return 0.85 + 0.3 * (1.0 - (torch.arange(size) + 0.5) / size)


def render_clips(clips: Clips, frames: int, size: int = 64, first_frame: int = 0) -> Tensor:
    """Draws clips.

    Args:
        clips: What to show.
        frames: Number of frames.
        size: Side of the picture in pixels.
        first_frame: Time of the first frame, in frames.

    Returns:
        Pixels from -1 to 1, shape ``(B, 3, frames, size, size)``, fp32.
    """
    alpha = coverage(clips, frames, size, first_frame)[:, None]
    color = torch.tensor(list(COLORS.values()))[clips.colors][:, :, None, None, None]
    ground = torch.tensor(list(BACKGROUNDS.values()))[clips.backgrounds][:, :, None, None, None]
    ground = (ground * row_shade(size)[:, None]).clamp(0.0, 1.0)
    return (ground + (color - ground) * alpha) * 2.0 - 1.0
