"""Decode ranks, how many: PipeDiT's balance, weighed in a simulation of the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal

from longtake.errors import ConfigurationError
from longtake.plan.cost.rundown import rundown
from longtake.plan.cost.simulator import ENOUGH_BLOCKS, Clock, bounded, compute_seconds
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.ir.schedule import TaskActions
from longtake.plan.layout import Layout
from longtake.plan.search.layouts import CLOSE, FEW_BLOCKS
from longtake.plan.workload import Workload

ENOUGH_TURNS: Final = 3
"""Requests per decode rank that numbers of them are weighed on: one first, one midway, one last."""


def choose_decoders(
    world_size: int,
    workload: Workload,
    asked: int | Literal["auto"],
    layout_of: Callable[[int], Layout],
    clock: Clock,
) -> Layout:
    """Return the best layout of those with a number of decode ranks that is worth weighing.

    Of those that take at most 2 % longer than the fastest, the one with the fewest decode ranks.

    Args:
        world_size: Number of devices; all are used.
        workload: What is to be made, and on what.
        asked: Decode ranks, or ``auto``.
        layout_of: Lays out so many ranks as a mesh.
        clock: The strategy's.

    Raises:
        ConfigurationError: What is given is impossible; names what is possible.
    """
    if asked == "auto" and world_size == 1:
        asked = 0
    if asked != "auto":
        return layout_with_decoders(world_size, workload, asked, layout_of)
    layouts = layouts_with_decoders(world_size, workload, layout_of)
    if len(layouts) == 1:
        return layouts[0]
    requests = min(workload.requests, ENOUGH_TURNS * layouts[-1].decoders)
    blocks = max(FEW_BLOCKS, ENOUGH_BLOCKS // requests)
    workload = replace(bounded(workload, blocks), requests=requests)
    time = clock(workload)
    spans = [time(layout).makespan for layout in layouts]
    enough = CLOSE * min(spans)
    return next(one for one, span in zip(layouts, spans, strict=True) if span <= enough)


def balanced(world_size: int, decode_seconds: float, denoise_seconds: float) -> float:
    """Return how many of ``world_size`` devices decode where neither group waits for the other.

    PipeDiT, section 3.2: ``N T_decode / (T_decode + T_denoise)``, times of one device.
    """
    total = decode_seconds + denoise_seconds
    return world_size * decode_seconds / total if total else 0.0


def with_co_attention(layout: Layout, text_in_attention: bool, sparse: bool = False) -> Layout:
    """Return a layout whose decode ranks attend heads while they have nothing to decode.

    Raises:
        ConfigurationError: There is no decode rank, or heads are not attended in one go: stages
            are as slow as the slowest of them, so heads of some would not help.
    """
    mesh, why = layout.mesh, ""
    if not layout.decoders:
        why = "there is no decode device; set decode_devices to 1 or more"
    elif mesh.pipe > 1:
        why = f"there are {mesh.pipe} pipeline stages, each as slow as the slowest; use 1"
    elif mesh.ring > 1 or layout.chunks > 1:
        why = f"ring is {mesh.ring} and overlap {layout.chunks}; use 1 and 1, ulysses instead"
    elif text_in_attention:
        why = "the model's text is inside self-attention, where prompts differ in length"
    elif sparse:
        why = "in some of the model's layers tokens do not attend to all others"
    if why:
        end = "or set aco to false" if ";" in why else "set aco to false"
        raise ConfigurationError(f"aco is true, but {why}; {end}.")
    return replace(layout, aco=True)


def layout_with_decoders(
    world_size: int, workload: Workload, decoders: int, layout_of: Callable[[int], Layout]
) -> Layout:
    """Return the layout with so many decode ranks.

    Args:
        world_size: Number of devices; all are used.
        workload: What is to be made.
        decoders: Decode ranks.
        layout_of: Lays out so many ranks as a mesh.

    Raises:
        ConfigurationError: That number is impossible; names the possible ones.
    """
    most = most_decoders(world_size, workload)
    if not 0 <= decoders <= most:
        videos = "1 video" if workload.requests == 1 else f"{workload.requests} videos"
        devices = "1 device" if world_size == 1 else f"{world_size} devices"
        raise ConfigurationError(
            f"decode_devices is {decoders} for {videos} on {devices}: at least one device "
            f"denoises, and whole pictures of a video are decoded by one (tiles by several, see "
            f"model.vae_tile; a picture has {workload.tiles}); possible: "
            f"{' or '.join(map(str, sorted({0, most})))}{', or between' * (most > 1)}."
        )
    layout = layout_of(world_size - decoders)
    return replace(layout, decoders=decoders, tiled=decoders > 1 and workload.tiles > 1)


def most_decoders(world_size: int, workload: Workload) -> int:
    """Return how many ranks could have something to decode, one being left to denoise."""
    return min(world_size - 1, workload.tiles if workload.tiles > 1 else workload.requests)


def layouts_with_decoders(
    world_size: int, workload: Workload, layout_of: Callable[[int], Layout]
) -> list[Layout]:
    """Return the layouts whose numbers of decode ranks are worth weighing, the fewest first.

    None, and the paper's balance rounded down and up; those that leave a possible mesh.

    Args:
        world_size: Number of devices; all are used.
        workload: What is to be made.
        layout_of: Lays out so many ranks as a mesh.

    Raises:
        ConfigurationError: No mesh is possible without decode ranks, nor with them.
    """
    exact = balanced(world_size, *seconds_of(bounded(workload)))
    most = most_decoders(world_size, workload)
    found: list[Layout] = []
    refusal: ConfigurationError | None = None
    for count in sorted({0, min(most, math.floor(exact)), min(most, math.ceil(exact))}):
        try:
            found.append(layout_with_decoders(world_size, workload, count, layout_of))
        except ConfigurationError as error:  # degrees that were given need more ranks
            refusal = refusal or error
    if not found:
        assert refusal is not None
        raise refusal
    return found


def seconds_of(workload: Workload) -> tuple[float, float]:
    """Return how long one device would decode and denoise one of the workload's videos."""
    serial = Layout.serial(workload.spec.layers, workload.branches)
    here, denoise, tasks = RankRole.of(serial, 0), 0.0, rundown(workload)
    for count, forward in zip(tasks.counts, tasks.shapes, strict=True):
        compute = TaskActions(forward, here).own_compute(range(workload.branches))
        denoise += count * compute_seconds(serial, workload, compute)
    return sum(tasks.finished) * workload.decode_seconds, denoise
