"""The picture of a run: each rank a row, each micro-batch a box."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from longtake.plan.cost.timeline import Box, draw
from longtake.plan.ir.actions import Combine, Compute, Decode

SVG = "{http://www.w3.org/2000/svg}"


def compute(block: int, step: int) -> Compute:
    return Compute(
        index=block + step,
        block=block,
        step=step,
        branches=range(2),
        layers=range(4),
        frames=16,
        own=8,
        reads=(),
        keeps=(),
    )


BOXES = [
    Box(0, compute(0, 0), 0.0, 1.0),
    Box(1, compute(0, 0), 1.0, 2.0),
    Box(1, Combine(index=0, block=0, step=0, frames=8), 2.0, 2.1),
    Box(0, compute(1, 0), 1.0, 2.0),
    Box(0, Decode(index=0, block=0, step=0, frames=1), 2.5, 4.0),
]


def boxes_of(picture: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(picture)
    return [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]


def test_what_computes_and_decodes_is_drawn_to_scale() -> None:
    boxes = boxes_of(draw(BOXES, "a run"))
    titles = [box.findtext(f"{SVG}title") for box in boxes]
    assert titles == [
        "block 0, step 0: 1.000 s",
        "block 0, step 0: 1.000 s",
        "block 1, step 0: 1.000 s",
        "decode block 0: 1.500 s",
    ]
    lefts = [float(box.get("x", "")) for box in boxes]
    widths = [float(box.get("width", "")) for box in boxes]
    assert lefts[1] == lefts[2] > lefts[0]
    assert widths[3] == pytest.approx(1.5 * widths[0], rel=0.01)
    rows = [box.get("y") for box in boxes]
    assert rows[0] == rows[2] == rows[3] != rows[1]


def test_a_block_keeps_its_color_on_all_ranks() -> None:
    fills = [box.get("fill") for box in boxes_of(draw(BOXES, "a run"))]
    assert fills[0] == fills[1] != fills[2]


def test_a_part_of_a_run_can_be_drawn() -> None:
    assert len(boxes_of(draw(BOXES, "a run", first=1.5, last=3.0))) == 3


def test_a_title_is_text_and_nothing_to_draw_is_refused() -> None:
    root = ElementTree.fromstring(draw(BOXES, "<a> & b"))
    assert "<a> & b" in [text.text for text in root.iter(f"{SVG}text")]
    with pytest.raises(ValueError, match="nothing is computed between 9 and 10 s"):
        draw(BOXES, "a run", first=9, last=10)
