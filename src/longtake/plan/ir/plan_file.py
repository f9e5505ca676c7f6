"""Plan files: every rank's actions of one request as text, to be read, changed and run again.

    format: 1
    layout: pipe2 stages 0:4 4:8 batches 0:2 chunks 1 decoders 0
    latent_frames: 33

    0: open b0s0#0 16 frames 0:16@0 enters b0@0 0:16
    1: post hop b0s0#0 0:2 16 frames from 0
    ...

The header says what the actions are for; a run of anything else is refused. Lines of several ranks
may be mixed; empty lines and what stands behind ``;`` is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import Action
from longtake.plan.ir.text import format_plan, parse_plan
from longtake.plan.layout import Layout
from longtake.plan.mesh import Axis

FORMAT: Final = 1
"""Version of the format that is written and read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """A request's actions, as written down.

    Args:
        layout: What they are for, from :func:`layout_line`.
        latent_frames: Length of the video.
        streams: Each rank's actions, rank 0 first.
    """

    layout: str
    latent_frames: int
    streams: tuple[tuple[Action, ...], ...]


def write_plan(
    layout: Layout, latent_frames: int, streams: Sequence[Iterable[Action]]
) -> Iterator[str]:
    """Yield the lines of a plan file.

    Args:
        layout: Which rank holds and runs what.
        latent_frames: Length of the video.
        streams: Each rank's actions, rank 0 first; they must end.
    """
    yield f"format: {FORMAT}"
    yield f"layout: {layout_line(layout)}"
    yield f"latent_frames: {latent_frames}"
    yield ""
    yield from format_plan(dict(enumerate(streams)))


def read_plan(lines: Iterable[str]) -> PlanFile:
    """Return what the lines of a plan file say.

    Raises:
        PlanError: They are none, or of another format; names the line.
    """
    lines = [line.partition(";")[0].rstrip() for line in lines]
    keys = ("format", "layout", "latent_frames")
    begin = list(takewhile(lambda line: line.partition(":")[0] in keys, lines))
    header = {key: value.strip() for key, _, value in (line.partition(":") for line in begin)}
    if header.get("format") != str(FORMAT):
        found = header.get("format", "nothing of the kind")
        raise PlanError(f"its first line is to be 'format: {FORMAT}', but says {found}.")
    frames = header.get("latent_frames", "")
    if "layout" not in header or not frames.isdecimal():
        raise PlanError("its header lacks 'layout: ...' or 'latent_frames: NUMBER'.")
    # Blank instead of the header, so that lines keep their numbers.
    plan = parse_plan([*([""] * len(begin)), *lines[len(begin) :]])
    ranks = range(max(plan, default=-1) + 1)
    streams = tuple(tuple(plan.get(rank, ())) for rank in ranks)
    return PlanFile(layout=header["layout"], latent_frames=int(frames), streams=streams)


def layout_line(layout: Layout) -> str:
    """Return a layout in one line: equal for equal layouts."""
    degrees = zip(Axis, layout.mesh.degrees, strict=True)
    mesh = " ".join(f"{axis}{degree}" for axis, degree in degrees if degree > 1) or "1"
    stages = " ".join(f"{stage.start}:{stage.stop}" for stage in layout.stages)
    batches = " ".join(f"{batch.start}:{batch.stop}" for batch in layout.batches)
    flags = " tiled" * layout.tiled + " aco" * layout.aco
    return (
        f"{mesh} stages {stages} batches {batches} chunks {layout.chunks} "
        f"decoders {layout.decoders}{flags}"
    )
