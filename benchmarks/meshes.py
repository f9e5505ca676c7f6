"""Simulates every way to use 8 devices, and DualParal's idle share against the published formula.

    python benchmarks/meshes.py

Nothing runs: the plans of all ranks are compiled and played on a clock, with the operations of
Wan 2.1's transformer (from its sizes) and VAE (counted on the meta device) and the data sheet of a
device, so figures are predictions. First table: idle shares with free communication, equal stages
and no decoding, as published formulas assume. Second: all meshes, for a minute of video by a
queue of blocks and for a clip of the model's native length.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table
from benchmarks.wan_workloads import SIZES, spec_of, workload_of

from longtake.caches import NextBlockKV
from longtake.models.flops import Flops
from longtake.plan.cost.profiles import profile
from longtake.plan.cost.simulator import bounded, simulate
from longtake.plan.devices import Hardware
from longtake.plan.layout import Layout
from longtake.plan.search.layouts import candidates
from longtake.plan.search.meshes import Asked
from longtake.plan.workload import Workload
from longtake.schedulers import BlockScheduler, FifoQueue, FullSequence
from longtake.strategies import DualParal

SCHEDULE = DualParal().actions
DEVICES, STEPS = 8, 50
FREE = Hardware(
    name="free communication",
    matmul=1.0,
    convolution=1.0,
    bandwidth=float("inf"),
    latency=0.0,
    launch=0.0,
    memory=float("inf"),
)


def video_of(name: str, hardware: Hardware, frames: int, scheduler: BlockScheduler) -> Workload:
    """Return a 480p video of so many video frames, with guidance."""
    latent_frames = spec_of(name).compression.latent_frames(frames)
    return workload_of(name, hardware, latent_frames, STEPS, scheduler, NextBlockKV(), branches=2)


def words(layout: Layout) -> str:
    """Return a layout's degrees."""
    mesh = layout.mesh
    degrees = {"stages": mesh.pipe, "cfg": mesh.cfg, "ring": mesh.ring, "ulysses": mesh.ulysses}
    said = " x ".join(f"{name} {degree}" for name, degree in degrees.items() if degree > 1)
    return said + (", apart" if mesh.cfg == 1 and len(layout.batches) > 1 else "")


def idle_rows() -> list[list[str]]:
    """Return idle shares on 8 devices: published formula, and compiled plans."""
    rows = []
    for frames, blocks in ((1025, 32), (189, 5)):
        workload = video_of("1.3B", FREE, frames, FifoQueue(8, 8))
        # One unit of work per layer and branch: as in the formula, all tasks are alike.
        workload = replace(workload, flops=Flops(embed=0, layer=1, attention=0, head=0, decode=0))
        workload = replace(workload, spec=replace(workload.spec, layers=32))
        formula = (DEVICES**2 - DEVICES - 1) / (DEVICES**2 - DEVICES - 1 + STEPS * blocks)
        row = [str(blocks), f"{100 * formula:.1f} %"]
        for asked in (
            Asked(stages=8, together=True),
            Asked(stages=8, together=False),
            Asked(stages=4, cfg=2),
        ):
            (layout,) = candidates(DEVICES, workload, asked)
            row.append(f"{100 * simulate(layout, workload, SCHEDULE).idle:.1f} %")
        rows.append(row)
    return rows


def mesh_rows(workload: Workload) -> list[list[str]]:
    """Return every mesh of 8 devices, fastest first."""
    every = Asked(ring=None, ulysses=None, together=True)
    workloads = bounded(workload)
    found = []
    for layout in candidates(DEVICES, workload, every):
        simulation = simulate(layout, workloads, SCHEDULE)
        sent = sum(simulation.sent_bytes) + sum(simulation.exchanged_bytes)
        weights = max(map(len, layout.stages)) * workload.layer_bytes
        found.append((simulation.makespan, layout, simulation.idle, sent, weights))
    return [
        [
            words(layout),
            f"{seconds:.0f}",
            f"{100 * idle:.0f} %",
            f"{sent / 1e9:,.0f}",
            f"{weights / 1e9:.1f}",
        ]
        for seconds, layout, idle, sent, weights in sorted(found, key=lambda one: one[0])
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SIZES, default="14B")
    parser.add_argument("--profile", default="RTX 4090")
    options = parser.parse_args()
    print(machine())
    print(f"\nIdle on {DEVICES} devices, {STEPS} steps\n")
    header = ["blocks", "formula", "8 stages", "8 stages, apart", "4 stages x cfg 2"]
    print(table(header, idle_rows()))
    hardware = profile(options.profile)
    header = ["mesh", "seconds", "idle", "sent, GB", "layers of a rank, GB"]
    for scheduler, frames in ((FifoQueue(8, 8), 1025), (FullSequence(), 81)):
        workload = video_of(options.model, hardware, frames, scheduler)
        how = "FullSequence" if frames == 81 else "FifoQueue(8, 8), NextBlockKV"
        print(f"\n{workload.spec.name}, 832x480, {frames} frames, {how}, 8 x {hardware.name}\n")
        print(table(header, mesh_rows(workload)))


if __name__ == "__main__":
    main()
