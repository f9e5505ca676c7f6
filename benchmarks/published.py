"""Sets predictions beside figures that papers and vendors have published.

    python benchmarks/published.py

Nothing runs, and no profile is tuned to a row: ``assets/hardware.yaml`` as it is, operations and
memory counted on the models' published structures, times of the ring clock. ``docs/published.md``
has the table, where the figures are from, and why they differ.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table

from longtake.caches import NextBlockKV, NoCache
from longtake.framework import GenerationConfig, PromptAt, Request
from longtake.framework.engine.memory import RunMemory
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.workloads import Workloads
from longtake.models import Placement, open_for_plan
from longtake.plan.cost.profiles import profile
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload
from longtake.schedulers import FifoQueue, FullSequence
from longtake.strategies import DualParal, ParallelStrategy, SequenceParallel, SingleDevice

HUNYUAN: Final = "hunyuanvideo-community/HunyuanVideo"
WAN: Final = {name: f"Wan-AI/Wan2.1-T2V-{name}-Diffusers" for name in ("1.3B", "14B")}
XDIT: Final = {1: 1904, 2: 925, 4: 514, 8: 338}
"""Seconds of xDiT's Ulysses by number of H100: HunyuanVideo, 129 frames of 1280x720, 50 steps."""
PIPEDIT: Final = {(352, 480): 41.4, (352, 640): 41.4, (592, 800): 41.5, (576, 1024): 42.1}
"""PipeDiT's Table 4: GB at the peak of DeDiVAE, HunyuanVideo, 129 frames, by height and width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is predicted of a run: seconds of a video, and bytes on the fullest rank.

    Args:
        seconds: Of the whole video, if it is finite.
        mesh: Bytes on the fullest rank of the mesh.
        peak: Bytes on the fullest rank of all.
    """

    seconds: float
    mesh: float
    peak: float


def predict(
    config: GenerationConfig,
    request: Request,
    gpu: str,
    strategy: ParallelStrategy,
    devices: int,
    decoders: int = 0,
) -> Run:
    """Return what a run would take."""
    model = ResolvedModel(config, Placement(torch.device("cpu"), torch.bfloat16), open_for_plan)
    workloads = Workloads(model, profile(gpu))
    workload = workloads.counted(workloads.of(request))
    layout = replace(strategy.layout(devices - decoders, workload), decoders=decoders)
    held = RunMemory(model).of(workload, layout)
    return Run(
        seconds=seconds_of(strategy, workload, layout),
        mesh=max(one.running for one in held[: layout.mesh.size]),
        peak=max(one.peak for one in held),
    )


def seconds_of(strategy: ParallelStrategy, workload: Workload, layout: Layout) -> float:
    """Return the whole video's seconds."""
    return strategy.clock(workload)(layout).makespan


def video(frames: int, height: int, width: int) -> Request:
    """Return a request."""
    prompts = (PromptAt(text="a harbor at dawn"),)
    return Request(prompts=prompts, num_frames=frames, height=height, width=width)


def clip(pipeline: str, **options: Any) -> GenerationConfig:
    """Return how all frames are denoised at once."""
    return GenerationConfig(pipeline, scheduler=FullSequence(), cache=NoCache(), **options)


def xdit() -> Iterator[list[str]]:
    """Yield rows of xDiT's scaling."""
    config, request = clip(HUNYUAN, steps=50), video(129, 720, 1280)
    runs = {
        n: predict(
            config, request, "H100", SequenceParallel(n, 1, 1) if n > 1 else SingleDevice(), n
        )
        for n in XDIT
    }
    for n, published in XDIT.items():
        ours, said = runs[1].seconds / runs[n].seconds, XDIT[1] / published
        yield [
            f"xDiT, HunyuanVideo 720p, {n} x H100, Ulysses",
            f"{published} s, {said:.2f} x",
            f"{runs[n].seconds:.0f} s, {ours:.2f} x",
            f"{100 * (runs[n].seconds / published - 1):+.0f} %, {100 * (ours / said - 1):+.0f} %",
        ]


def dual_paral() -> Iterator[list[str]]:
    """Yield rows of DualParal's headline: against the ways to do it that there are."""
    request = video(1025, 480, 832)
    for name, pipeline in WAN.items():
        queue = GenerationConfig(
            pipeline, scheduler=FifoQueue(8, 8), cache=NextBlockKV(), steps=50, guidance_scale=5.0
        )
        ours = predict(queue, request, "RTX 4090", DualParal(8, 1), 8)
        whole = clip(pipeline, steps=50, guidance_scale=5.0)
        heads = 4 if name == "1.3B" else 8  # 12 heads
        shared = predict(whole, request, "RTX 4090", SequenceParallel(heads, 8 // heads, 1), 8)
        alone = predict(queue, request, "RTX 4090", SingleDevice(), 1)
        for words, other in (
            ("all frames at once, tokens shared by 8", shared),
            ("the same queue on one", alone),
        ):
            yield [
                f"DualParal, Wan 2.1 {name}, 1,025 frames, 8 x RTX 4090, over {words}",
                "up to 6.54 x faster, 1.48 x less memory (over what, is not said)",
                f"{other.seconds / ours.seconds:.2f} x faster ({ours.seconds / 60:.0f} min), "
                f"{other.mesh / ours.mesh:.2f} x less memory ({ours.mesh / 1e9:.1f} GB)",
                "",
            ]


def pipedit() -> Iterator[list[str]]:
    """Yield rows of PipeDiT's Table 4."""
    config = clip(HUNYUAN, steps=50)
    for (height, width), published in PIPEDIT.items():
        strategy = SequenceParallel(1, 7, 1)  # 24 heads
        run = predict(config, video(129, height, width), "L40", strategy, 8, decoders=1)
        yield [
            f"PipeDiT Table 4, HunyuanVideo {width}x{height}x129, 7 + 1 GPUs",
            f"{published} GB",
            f"{run.mesh / 1e9:.1f} GB where it denoises, {run.peak / 1e9:.1f} GB at the most",
            f"{100 * (run.peak / 1e9 / published - 1):+.0f} %",
        ]


def main() -> None:
    """Print the table."""
    print(machine(), "\n", flush=True)
    rows = []
    for part in (xdit, dual_paral, pipedit):
        rows += list(part())
        print(part.__name__, flush=True)
    print(table(["setting", "published", "predicted here", "off"], rows))


if __name__ == "__main__":
    main()
