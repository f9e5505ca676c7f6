"""Timeline picture of a run or a simulation: each rank a row, each micro-batch a coloured box."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from longtake.plan.ir.actions import Action, Compute, Decode

_WIDTH, _LEFT, _TOP, _ROW, _GAP, _BOTTOM = 1200, 64, 36, 26, 6, 34
"""Pixels: of the whole, margins, a row and what is between rows."""
_LABEL: Final = 15
"""Pixels from which on a box has room for a block's number."""
_FONT: Final = "font-family='Helvetica,Arial,sans-serif' font-size"


@dataclass(frozen=True, slots=True)
class Box:
    """An action and when it was done, by a clock that all ranks share.

    Args:
        rank: Whose action.
        action: Which one.
        start: Seconds at which it began; of a receive, at which the rank began to wait.
        stop: Seconds at which it ended.
    """

    rank: int
    action: Action
    start: float
    stop: float


def draw(boxes: Sequence[Box], title: str, first: float = 0.0, last: float = math.inf) -> str:
    """Return an SVG picture of what computes and decodes; what is white is idle.

    A block keeps its colour in all steps and on all ranks, so that its way through the stages can
    be followed; it darkens as it gets cleaner.

    Args:
        boxes: Of all ranks; those that neither compute nor decode are left out.
        title: Shown above.
        first: Seconds after the first box's start from which on boxes are drawn.
        last: Seconds up to which they are.

    Raises:
        ValueError: Nothing computes between ``first`` and ``last``.
    """
    drawn = [box for box in boxes if isinstance(box.action, Compute | Decode)]
    origin = min((box.start for box in drawn), default=0.0) + first
    end = min(max((box.stop for box in drawn), default=0.0), origin - first + last)
    drawn = [box for box in drawn if box.stop > origin and box.start < end]
    if not drawn:
        raise ValueError(f"nothing is computed between {first:g} and {last:g} s")
    ranks = 1 + max(box.rank for box in drawn)
    scale = (_WIDTH - _LEFT - 12) / (end - origin)
    height = _TOP + ranks * (_ROW + _GAP) + _BOTTOM
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}'>",
        f"<rect width='{_WIDTH}' height='{height}' fill='white'/>",
        f"<text x='{_LEFT}' y='22' {_FONT}='15'>{escape(title)}</text>",
    ]
    for rank in range(ranks):
        y = _top(rank) + _ROW / 2 + 5
        lines.append(f"<text x='{_LEFT - 8}' y='{y}' {_FONT}='13' text-anchor='end'>")
        lines.append(f"rank {rank}</text>")
    steps = 1 + max((b.action.step for b in drawn if isinstance(b.action, Compute)), default=0)
    for box in drawn:
        x = _LEFT + (max(box.start, origin) - origin) * scale
        lines.append(_box(box, x, (min(box.stop, end) - max(box.start, origin)) * scale, steps))
    lines += _axis(end - origin, first, scale, _top(ranks))
    return "\n".join([*lines, "</svg>", ""])


def _top(rank: int) -> int:
    return _TOP + rank * (_ROW + _GAP)


def _box(box: Box, x: float, width: float, steps: int) -> str:
    action, seconds = box.action, f"{box.stop - box.start:.3f} s"
    if isinstance(action, Compute):
        light = 82 - 40 * action.step / steps
        # The golden angle: neighbors differ as much as can be, however many there are.
        fill = f"hsl({action.block * 137.5 % 360:.0f},65%,{light:.0f}%)"
        what, label = f"block {action.block}, step {action.step}: {seconds}", f"{action.block}"
    else:
        assert isinstance(action, Decode)
        fill, what, label = "#777", f"decode block {action.block}: {seconds}", ""
    y = _top(box.rank)
    shape = (
        f"<rect x='{x:.1f}' y='{y}' width='{max(width - 0.4, 0.3):.1f}' height='{_ROW}' "
        f"fill='{fill}'><title>{what}</title></rect>"
    )
    if label and width >= _LABEL:
        shape += (
            f"<text x='{x + width / 2:.1f}' y='{y + _ROW / 2 + 4}' {_FONT}='11' "
            f"text-anchor='middle'>{label}</text>"
        )
    return shape


def _axis(seconds: float, first: float, scale: float, y: int) -> Iterator[str]:
    step = 10 ** math.floor(math.log10(seconds / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if seconds / (step * factor) <= 12)
    for tick in range(int(seconds / step) + 1):
        x = _LEFT + tick * step * scale
        label = f"{first + tick * step:g} s"
        yield f"<line x1='{x:.1f}' y1='{y}' x2='{x:.1f}' y2='{y + 5}' stroke='#555'/>"
        yield f"<text x='{x:.1f}' y='{y + 19}' {_FONT}='12' text-anchor='middle'>{label}</text>"
