"""Simulates the long-video methods on 1, 2, 4 and 8 devices, beside published figures.

    OMP_NUM_THREADS=1 python benchmarks/method_table.py

Nothing runs on a GPU: Wan 2.1 at 832x480 in bfloat16, 30 seconds at 16 frames per second, played
on a clock with a device's data sheet (``plan/cost/profiles.py``: half of the bf16 peak for
products). Of each number of devices the fastest layout that fits is taken: stages, guidance and
Ulysses, for few-step methods also ranks that decode, one for whole pictures, two or four that
share tiles. Layouts are weighed on the first blocks and, of methods of many steps, on few steps.

*bound*: the serial run's time over the number of devices: no rank ever idle, no exchange, all
decoding shared. The VAE runs in float32 without tensor cores, as the profile takes longtake's. For
comparison with published figures it is taken to run in half precision (40 % of the bf16 peak, as in
``pipedit_table6.py``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table
from benchmarks.pipedit_models import half_precision
from benchmarks.wan_workloads import HEIGHT, SIZES, WIDTH, workload_of

from longtake.caches import FeatureCache, NextBlockKV, NoCache, RollingKV, SameStepKV
from longtake.framework.engine.preflight import held_frames
from longtake.models.decoders.tiles import TileGrid
from longtake.plan.cost.memory import frame_bytes
from longtake.plan.cost.profiles import profile
from longtake.plan.cost.simulator import Simulation, bounded, simulate
from longtake.plan.devices import Hardware
from longtake.plan.layout import Layout
from longtake.plan.search.layouts import candidates
from longtake.plan.search.meshes import Asked
from longtake.plan.workload import Workload
from longtake.schedulers import (
    Autoregressive,
    BlockScheduler,
    CascadeQueue,
    ContextWindows,
    DiffusionForcing,
    Extend,
    FifoQueue,
    FrameQueue,
    RollingWindow,
)
from longtake.strategies import DualParal

SCHEDULE = DualParal().actions
ASKED = Asked(ulysses=None, together=True)
DEVICES, FPS, LATENT_FRAMES = (1, 2, 4, 8), 16, 121
GPUS = ("H100", "RTX 4090")
FEW_STEPS, FEW_BLOCKS, WEIGHED_STEPS = 5, 12, 8
FITS = 0.9
"""Of a device's memory that layers, keys and values may take."""
TILES: Final = {0: None, 1: None, 2: 64, 4: 40}
"""Decode ranks, and the latent positions along the side of the tiles that they share."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method as a row of the table.

    Args:
        name: In the table.
        scheduler: Its schedule.
        cache: How tasks see the rest.
        steps: Denoising steps.
        branches: 2 with guidance.
    """

    name: str
    scheduler: BlockScheduler
    cache: FeatureCache
    steps: int
    branches: int = 2

    def workload(self, model: str, hardware: Hardware) -> Workload:
        """Return its workload for a size of Wan 2.1."""
        parts = (LATENT_FRAMES, self.steps, self.scheduler, self.cache)
        return workload_of(model, hardware, *parts, branches=self.branches)


CAUSAL = RollingKV(21)
CASCADE = Method("CascadeQueue(3), RollingKV(21)", CascadeQueue(3), CAUSAL, 4, 1)
SERIES = Method("Autoregressive(3), RollingKV(21)", Autoregressive(3), CAUSAL, 4, 1)
ROLLING = Method(
    "RollingWindow(3), RollingKV(21, 3, 24, moved)",
    RollingWindow(3),
    RollingKV(21, 3, 24, moved_sinks=True),
    5,
    1,
)
METHODS = (
    Method("FifoQueue(8, 8), NextBlockKV (DualParal)", FifoQueue(8, 8), NextBlockKV(), 50),
    Method("FifoQueue(8, 8, 5), SameStepKV (ours)", FifoQueue(8, 8, 5), SameStepKV(), 50),
    Method("ContextWindows(21, 7), NoCache", ContextWindows(21, 7), NoCache(), 50),
    Method("FrameQueue(16, 4), NoCache", FrameQueue(16, 4), NoCache(), 64),
    Method("Extend(25, 5), NoCache", Extend(25, 5), NoCache(), 50),
    Method(
        "DiffusionForcing(5, 10, 25), RollingKV(25)", DiffusionForcing(5, 10), RollingKV(25), 50
    ),
    SERIES,
    CASCADE,
    ROLLING,
)


@dataclass(frozen=True, slots=True)
class Result:
    """The fastest layout of a number of devices.

    Args:
        layout: Which rank holds and runs what.
        simulation: Of the whole video.
        held: Bytes of layers, and of keys and values, of the rank with the most.
        fits: Whether that is less than a device's memory.
    """

    layout: Layout
    simulation: Simulation
    held: float
    fits: bool

    @property
    def frames_per_second(self) -> float:
        """Of the whole video."""
        return VIDEO_FRAMES / self.simulation.makespan


VIDEO_FRAMES = 4 * (LATENT_FRAMES - 1) + 1


def decoded_by(workload: Workload, layout: Layout) -> Workload:
    """Return a workload, its pictures cut into the tiles that a layout's decode ranks share."""
    size = TILES[layout.decoders]
    if size is None:
        return workload
    grid = TileGrid(HEIGHT, WIDTH, size, workload.spec.compression.spatial)
    flops = replace(workload.flops, decode=workload.flops.decode * grid.overhead)
    return replace(workload, flops=flops, tiles=len(grid.tiles))


def layouts(workload: Workload, devices: int) -> Iterator[Layout]:
    """Yield the layouts that are weighed."""
    for decoders in TILES if workload.steps <= FEW_STEPS else (0,):
        if devices <= decoders:
            continue
        for layout in candidates(devices - decoders, workload, ASKED):
            yield replace(layout, decoders=decoders, tiled=decoders > 1)


def held_bytes(workload: Workload, layout: Layout) -> float:
    """Return the bytes of layers, and of keys and values, of the rank that holds the most."""
    frames = held_frames(workload)
    return max(
        len(layout.layers(rank)) * workload.layer_bytes
        + frames * frame_bytes(workload, layout, rank)
        for rank in range(layout.mesh.size)
    )


def fastest(workload: Workload, devices: int) -> Result:
    """Return the fastest layout that fits, or of all where none does."""
    few = bounded(workload, FEW_BLOCKS)
    if workload.steps > FEW_STEPS:
        few = with_few_steps(few)
    found = list(layouts(few, devices))
    most = FITS * workload.hardware.memory
    fitting = [layout for layout in found if held_bytes(workload, layout) <= most]
    best = min(
        fitting or found,
        key=lambda layout: simulate(layout, decoded_by(few, layout), SCHEDULE).makespan,
    )
    simulation = simulate(best, decoded_by(workload, best), SCHEDULE)
    return Result(best, simulation, held_bytes(workload, best), bool(fitting))


def with_few_steps(workload: Workload) -> Workload:
    """Return a workload of few steps, to weigh layouts with: decoding has the same share of it."""
    scheduler, steps = workload.scheduler, WEIGHED_STEPS
    match scheduler:
        case FifoQueue():
            scheduler = FifoQueue(scheduler.block_frames, scheduler.context_frames)
        case DiffusionForcing():
            scheduler = DiffusionForcing(scheduler.block_frames, 2, scheduler.length)
        case FrameQueue():
            scheduler, steps = FrameQueue(scheduler.clip_frames, 1), scheduler.clip_frames
        case _:
            pass
    flops = replace(workload.flops, decode=workload.flops.decode * steps / workload.steps)
    return replace(workload, scheduler=scheduler, steps=steps, flops=flops)


def words(layout: Layout) -> str:
    """Return a layout's degrees."""
    mesh = layout.mesh
    degrees = {"stages": mesh.pipe, "cfg": mesh.cfg, "ulysses": mesh.ulysses}
    said = " x ".join(f"{name} {degree}" for name, degree in degrees.items() if degree > 1)
    return (said or "1") + (f" + {layout.decoders} decode" if layout.decoders else "")


def rows_of(method: Method, model: str, hardware: Hardware) -> list[list[str]]:
    """Return a method's rows, one for each number of devices."""
    workload = method.workload(model, hardware)
    serial = Layout.serial(workload.spec.layers, workload.branches)
    alone = simulate(serial, workload, SCHEDULE).makespan
    rows = []
    for devices in DEVICES:
        result = fastest(workload, devices)
        took = result.simulation
        rows.append(
            [
                method.name if devices == 1 else "",
                str(devices),
                words(result.layout),
                f"{took.makespan / (VIDEO_FRAMES / FPS):.2f}",
                f"{alone / devices / (VIDEO_FRAMES / FPS):.2f}",
                f"{alone / devices / took.makespan:.2f}",
                f"{took.first_block:.1f}",
                f"{100 * took.idle:.0f} %",
                f"{result.held / 1e9:.1f}" + ("" if result.fits else " (too much)"),
            ]
        )
    return rows


@dataclass(frozen=True, slots=True)
class Published:
    """A published figure that a simulation can be held against.

    Args:
        source: Paper or code.
        method: What it is here.
        model: Size of Wan 2.1.
        devices: H100s.
        figure: Frames per second.
        split: Layouts to choose from.
    """

    source: str
    method: Method
    model: str
    devices: int
    figure: float
    split: Asked = ASKED


STAGES = Asked(together=True)
LONGLIVE = replace(SERIES, name="Autoregressive(3), RollingKV(12, 3)", cache=RollingKV(12, 3))
PUBLISHED = (
    Published("Block Cascading, 14B, without", SERIES, "14B", 1, 4.5),
    Published("Block Cascading, 14B", CASCADE, "14B", 5, 12.5, STAGES),
    Published("Block Cascading, 1.3B, without", SERIES, "1.3B", 1, 16.0),
    Published("Block Cascading, 1.3B", CASCADE, "1.3B", 5, 30.0, STAGES),
    Published("Self-Forcing (its GPU is not in our source)", SERIES, "1.3B", 1, 17.0),
    Published("LongLive, 1 H100", LONGLIVE, "1.3B", 1, 20.7),
    Published("Rolling Forcing, 1 GPU", ROLLING, "1.3B", 1, 16.0),
)


def published_rows() -> list[list[str]]:
    """Return published frames per second beside simulated ones, the VAE in half precision."""
    hardware, rows = half_precision(profile("H100")), []
    for one in PUBLISHED:
        workload = one.method.workload(one.model, hardware)
        made = min(
            (
                simulate(layout, workload, SCHEDULE)
                for layout in candidates(one.devices, workload, one.split)
            ),
            key=lambda simulation: simulation.makespan,
        )
        ours = VIDEO_FRAMES / made.makespan
        rows.append(
            [
                one.source,
                one.method.name,
                str(one.devices),
                f"{one.figure:.1f}",
                f"{ours:.1f}",
                f"{100 * (ours / one.figure - 1):+.0f} %",
                f"{100 * made.idle:.0f} %",
            ]
        )
    return rows


def bound_rows() -> list[list[str]]:
    """Return CascadeQueue on 8 H100s beside the bound, for both precisions of the VAE."""
    rows = []
    for model in SIZES:
        for how, hardware in (
            ("float32", profile("H100")),
            ("half", half_precision(profile("H100"))),
        ):
            workload = CASCADE.workload(model, hardware)
            serial = Layout.serial(workload.spec.layers, workload.branches)
            bound = 8 * VIDEO_FRAMES / simulate(serial, workload, SCHEDULE).makespan
            result = fastest(workload, 8)
            rows.append(
                [
                    model,
                    how,
                    words(result.layout),
                    f"{result.frames_per_second:.1f}",
                    f"{bound:.1f}",
                    f"{result.frames_per_second / bound:.2f}",
                ]
            )
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--published_only", action="store_true", help="the two short tables alone")
    parser.add_argument("--only", nargs="*", default=[""], help="methods whose names begin so")
    options = parser.parse_args()
    methods = [one for one in METHODS if one.name.startswith(tuple(options.only))]
    print(machine())
    print("\nFrames per second, simulated and published (H100, VAE in half precision)\n")
    header = ["published", "here", "devices", "published", "simulated", "off by", "idle"]
    print(table(header, published_rows()))
    print("\nCascadeQueue on 8 H100s against the bound without idle, frames per second\n")
    header = ["model", "VAE", "layout", "simulated", "bound", "share"]
    print(table(header, bound_rows()), flush=True)
    if options.published_only:
        return
    header = ["method", "devices", "layout", "s per video s", "bound", "share of it"]
    header += ["first frame, s", "idle", "layers and K/V of a rank, GB"]
    for gpu in GPUS:
        for model in SIZES:
            print(f"\nWan 2.1 {model}, {gpu}\n")
            rows = [row for one in methods for row in rows_of(one, model, profile(gpu))]
            print(table(header, rows), flush=True)


if __name__ == "__main__":
    main()
