"""The picture's coordinates, worked out by hand: a fault in a picture is seen by nobody else."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from tests.unit.plan.cost.test_timeline import BOXES, SVG, boxes_of, compute

from longtake.plan.cost.timeline import Box, draw


def attributes(picture: str, tag: str, *names: str) -> list[tuple[str | None, ...]]:
    root = ElementTree.fromstring(picture)
    return [tuple(one.get(name) for name in names) for one in root.iter(f"{SVG}{tag}")]


def test_every_box_has_its_place() -> None:
    """4 s on 1200 - 64 - 12 = 1124 pixels: 281 a second; rows of 26 begin at 36, 32 apart."""
    picture = draw(BOXES, "a run")
    assert attributes(picture, "svg", "viewBox") == [("0 0 1200 134",)]
    assert attributes(picture, "rect", "x", "y", "width", "height", "fill")[1:] == [
        ("64.0", "36", "280.6", "26", "hsl(0,65%,82%)"),
        ("345.0", "68", "280.6", "26", "hsl(0,65%,82%)"),
        ("345.0", "36", "280.6", "26", "hsl(138,65%,82%)"),
        ("766.5", "36", "421.1", "26", "#777"),
    ]
    assert attributes(picture, "text", "x", "y") == [
        ("64", "22"),  # the title
        ("56", "54.0"),  # names of rows
        ("56", "86.0"),
        ("204.5", "53.0"),  # numbers of blocks
        ("485.5", "85.0"),
        ("485.5", "53.0"),
        *((f"{x}.0", "119") for x in (64, 345, 626, 907, 1188)),  # seconds
    ]
    ticks = [(f"{x}.0", "100", f"{x}.0", "105") for x in (64, 345, 626, 907, 1188)]
    assert attributes(picture, "line", "x1", "y1", "x2", "y2") == ticks


def test_a_block_darkens_as_it_gets_cleaner() -> None:
    boxes = [Box(0, compute(3, step), step, step + 1.0) for step in range(4)]
    # 3 x 137.5 is 52.5 beyond 360; from 82 down in steps of 40 / 4.
    fills = [fill for (fill,) in attributes(draw(boxes, ""), "rect", "fill")[1:]]
    assert fills == [f"hsl(52,65%,{light}%)" for light in (82, 72, 62, 52)]


def test_boxes_are_cut_at_the_ends_of_what_is_shown() -> None:
    # 1.5 s to 3 s: 1124 / 1.5 = 749.33 a second. Half a second, the same, and the last half.
    boxes = attributes(draw(BOXES, "", first=1.5, last=3.0), "rect", "x", "width")[1:]
    assert boxes == [("64.0", "374.3"), ("64.0", "374.3"), ("813.3", "374.3")]


@pytest.mark.parametrize(("width", "labels"), [(15.1, 1), (14.9, 0)])
def test_narrow_boxes_have_no_number(width: float, labels: int) -> None:
    boxes = [Box(0, compute(0, 0), 0.0, width / 1124), Box(0, compute(1, 0), 0.5, 1.0)]
    assert len(boxes_of(draw(boxes, ""))) == 2
    numbers = ElementTree.fromstring(draw(boxes, "")).iter(f"{SVG}text")
    assert sum(one.get("font-size") == "11" for one in numbers) == 1 + labels


@pytest.mark.parametrize(
    ("seconds", "ticks"),
    [
        (4.0, ["0 s", "1 s", "2 s", "3 s", "4 s"]),
        # 25 s: steps of 1 would be 25 ticks, of 2 are 12.5, of 5 are 5.
        (25.0, ["0 s", "5 s", "10 s", "15 s", "20 s", "25 s"]),
        (0.24, [f"{tick * 0.02:g} s" for tick in range(13)]),
    ],
)
def test_ticks_are_at_round_seconds(seconds: float, ticks: list[str]) -> None:
    root = ElementTree.fromstring(draw([Box(0, compute(0, 0), 0.0, seconds)], ""))
    found = [one.text for one in root.iter(f"{SVG}text") if one.get("font-size") == "12"]
    assert found == ticks
