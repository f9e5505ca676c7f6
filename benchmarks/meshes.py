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

import torch
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table

from longtake.caches import NextBlockKV
from longtake.models import BackboneSpec, Compression
from longtake.models.flops import Flops
from longtake.models.wan import WanDecoder
from longtake.plan.cost.profiles import profile
from longtake.plan.cost.simulator import bounded, simulate
from longtake.plan.devices import Hardware
from longtake.plan.layout import Layout
from longtake.plan.search.layouts import candidates
from longtake.plan.search.meshes import Asked
from longtake.plan.workload import Workload
from longtake.schedulers import FifoQueue, FullSequence
from longtake.strategies import DualParal

SCHEDULE = DualParal().actions

DEVICES, STEPS, TEXT = 8, 50, 512
FREE = Hardware(
    name="free communication",
    matmul=1.0,
    convolution=1.0,
    bandwidth=float("inf"),
    latency=0.0,
    launch=0.0,
    memory=float("inf"),
)
SIZES = {"1.3B": (12, 30, 8960), "14B": (40, 40, 13824)}
"""Heads, layers and feed-forward width of Wan 2.1."""


def spec_of(name: str) -> BackboneSpec:
    """Return Wan 2.1's spec."""
    heads, layers, _ = SIZES[name]
    return BackboneSpec(
        name=f"Wan 2.1 {name}",
        channels=16,
        patch=(1, 2, 2),
        heads=heads,
        head_dim=128,
        layers=layers,
        native_frames=21,
        compression=Compression(temporal=4, spatial=8),
    )


def layer_numbers(name: str) -> int:
    """Return the weights of one layer: two attentions and the feed-forward part."""
    dim = spec_of(name).model_dim
    return 8 * dim * dim + 2 * dim * SIZES[name][2]


@torch.no_grad()
def decode_operations(height: int, width: int) -> float:
    """Count the operations of Wan's VAE for a latent frame in the midst of a video."""
    with torch.device("meta"):
        decoder, side = WanDecoder(AutoencoderKLWan()), 8
        state = decoder.start()
        for _ in range(3):
            list(decoder.decode(state, torch.empty(1, 16, 1, side, side)))
        with FlopCounterMode(display=False) as counter:
            list(decoder.decode(state, torch.empty(1, 16, 1, side, side)))
    return float(counter.get_total_flops()) / side**2 * height * width


def workload_of(name: str, hardware: Hardware, video_frames: int, *, queue: bool) -> Workload:
    """Return a 480p workload of Wan 2.1 in bfloat16 with guidance."""
    spec, height, width = spec_of(name), 60, 104
    dim = spec.model_dim
    # Projections of self-attention and the queries' and output of cross-attention, feed-forward,
    # and cross-attention itself.
    linear = 2 * (6 * dim * dim + 2 * dim * SIZES[name][2]) + 4 * TEXT * dim
    ends = 2.0 * 4 * spec.channels * dim
    return Workload(
        spec=spec,
        scheduler=FifoQueue(8, 8) if queue else FullSequence(),
        latent_frames=spec.compression.latent_frames(video_frames),
        steps=STEPS,
        cache=NextBlockKV(),
        branches=2,
        height=height,
        width=width,
        item_bytes=2,
        flops=Flops(
            embed=ends,
            layer=linear,
            attention=4 * dim,
            head=ends,
            decode=decode_operations(height, width),
        ),
        hardware=hardware,
        layer_bytes=2 * layer_numbers(name),
    )


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
        workload = workload_of("1.3B", FREE, frames, queue=True)
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
    for queue, frames in ((True, 1025), (False, 81)):
        workload = workload_of(options.model, hardware, frames, queue=queue)
        how = "FifoQueue(8, 8), NextBlockKV" if queue else "FullSequence"
        print(f"\n{workload.spec.name}, 832x480, {frames} frames, {how}, 8 x {hardware.name}\n")
        print(table(header, mesh_rows(workload)))


if __name__ == "__main__":
    main()
