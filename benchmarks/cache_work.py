"""Measures what a task costs with each feature cache, and what the cache holds.

    python benchmarks/cache_work.py

1. FLOPs of one mid-video task (both neighbors in flight) of Wan 2.1 1.3B at 480 x 832, counted by
   torch on the meta device while ``SingleDevice`` runs the schedule: no weights, no arithmetic.
   One and two layers are counted; a layer is their difference, and the whole model is one layer
   and 29 times the difference.
2. Bytes of keys and values that the cache holds at its peak, in bfloat16, both guidance branches,
   all 30 layers (divide by the stages of a pipeline for one device).
3. Wall and CPU time of the same task on a small random-weight Wan on this machine.

SameStepKV at 8/8 (block/context latent frames) has to take at most 0.52 of NextBlockKV's FLOPs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache as cache_calls
from pathlib import Path
from statistics import median

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table

from longtake.caches import (
    FeatureCache,
    NextBlockKV,
    NoCache,
    SameStepKV,
    forwards,
    peak_held_frames,
)
from longtake.guidance import ClassifierFreeGuidance, GuidanceSettings
from longtake.models import BackboneSpec, Compression, DiffusersSampler
from longtake.models.wan import WanBackbone
from longtake.noise import NoiseSource, SharedPool
from longtake.schedulers import FifoQueue
from longtake.strategies import Denoising, Layout, SingleDevice, TaskDone
from longtake.task import Task, Video

CACHES: tuple[FeatureCache, ...] = (NoCache(), NextBlockKV(), SameStepKV())
CUTS = ((8, 8), (8, 4), (16, 2))
"""Block and context, in latent frames."""
WAN_LAYERS = 30
STEPS = 3
"""Of the schedule that is counted: enough for a task with both neighbors in flight."""
BLOCKS = 5
LAYERS_TIMED = 2


@dataclass(frozen=True)
class Size:
    """A Wan transformer's widths and what it works on.

    Attributes:
        heads: Attention heads.
        head_dim: Size of a head.
        ffn: Width inside the feed-forward part.
        text: Width of the text encoder's states.
        tokens: Tokens of a prompt.
        height: Latent height.
        width: Latent width.
    """

    heads: int
    head_dim: int
    ffn: int
    text: int
    tokens: int
    height: int
    width: int

    @property
    def model_dim(self) -> int:
        """Size of a hidden state."""
        return self.heads * self.head_dim

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one latent frame."""
        return self.height // 2 * (self.width // 2)


WAN = Size(heads=12, head_dim=128, ffn=8960, text=4096, tokens=512, height=60, width=104)
"""Wan 2.1 1.3B at 480 x 832 pixels."""
SMALL = Size(heads=4, head_dim=64, ffn=1024, text=64, tokens=64, height=12, width=20)


def serial(work: Denoising) -> Layout:
    """Return the layout of the serial run."""
    return Layout.serial(work.backbone.spec.layers, len(work.guidance.branches))


def main() -> None:
    """Count, then time, and print two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, help="of the timing; 0 leaves it out")
    options = parser.parse_args()
    print(machine())
    torch.set_grad_enabled(False)
    print(f"\nWan 2.1 1.3B at 480 x 832, one task, {WAN_LAYERS} layers, 2 guidance branches\n")
    header = ["block/context", "cache", "latent frames in", "TFLOPs", "of NextBlockKV"]
    print(table([*header, *(f"held, GB ({n} steps)" for n in (50, 4))], list(_counted())))
    if options.repeats:
        print(
            f"\nsmall Wan: dim {SMALL.model_dim}, {LAYERS_TIMED} layers, "
            f"{SMALL.tokens_per_frame} tokens per latent frame, fp32\n"
        )
        header = ["block/context", "cache", "wall, ms (min to max)", "CPU, ms (min to max)"]
        print(table([*header, "of NextBlockKV (CPU)"], list(_timed(options.repeats))))


def _counted() -> Iterator[list[str]]:
    for cut in CUTS:
        flops = {cache: _task_flops(cache, cut) for cache in CACHES}
        for cache, count in flops.items():
            walk = forwards(FifoQueue(*cut).tasks(Video(_frames(cut), STEPS)), cache)
            window = next(forward.window for forward in walk if _is_mid(forward.task))
            yield [
                f"{cut[0]}/{cut[1]}",
                type(cache).__name__,
                str(len(window.frames)),
                f"{count / 1e12:.1f}",
                f"{count / flops[CACHES[1]]:.3f}",
                *(f"{_held_bytes(cache, cut, steps) / 1e9:.1f}" for steps in (50, 4)),
            ]


def _task_flops(cache: FeatureCache, cut: tuple[int, int]) -> int:
    one, two = (_count(_work(WAN, cache, cut, layers, "meta")) for layers in (1, 2))
    return one + (WAN_LAYERS - 1) * (two - one)


def _count(work: Denoising) -> int:
    progress = SingleDevice().run(work, serial(work), 0)
    while True:
        with FlopCounterMode(display=False) as counter:
            event = next(progress)
        if isinstance(event, TaskDone) and _is_mid(event.task):
            return int(counter.get_total_flops())


def _timed(repeats: int) -> Iterator[list[str]]:
    for cut in CUTS:
        times: dict[FeatureCache, list[tuple[float, float]]] = {cache: [] for cache in CACHES}
        for _ in range(repeats):
            for cache, found in times.items():
                found += _times(_work(SMALL, cache, cut, LAYERS_TIMED, "cpu"))
        wall, cpu = (
            {cache: [1e3 * pair[clock] for pair in found] for cache, found in times.items()}
            for clock in (0, 1)
        )
        for cache in CACHES:
            yield [
                f"{cut[0]}/{cut[1]}",
                type(cache).__name__,
                f"{median(wall[cache]):.1f} ({min(wall[cache]):.1f} to {max(wall[cache]):.1f})",
                f"{median(cpu[cache]):.1f} ({min(cpu[cache]):.1f} to {max(cpu[cache]):.1f})",
                f"{median(cpu[cache]) / median(cpu[CACHES[1]]):.2f}",
            ]


def _times(work: Denoising) -> list[tuple[float, float]]:
    """Return wall and CPU seconds of every mid-video task of the schedule."""
    found, start = [], (time.perf_counter(), time.process_time())
    for event in SingleDevice().run(work, serial(work), 0):
        now = time.perf_counter(), time.process_time()
        if isinstance(event, TaskDone) and _is_mid(event.task):
            found.append((now[0] - start[0], now[1] - start[1]))
        start = time.perf_counter(), time.process_time()
    return found


def _is_mid(task: Task) -> bool:
    """Whether both neighbors are in flight and of full length."""
    return 2 <= task.block <= BLOCKS - 2 and task.step == 1


def _frames(cut: tuple[int, int]) -> int:
    """Return the latent frames of ``BLOCKS`` full blocks: the first is longer by the context."""
    block, context = cut
    return context + BLOCKS * block


def _held_bytes(cache: FeatureCache, cut: tuple[int, int], steps: int) -> int:
    queue = FifoQueue(*cut)
    frames = peak_held_frames(cache, queue.tasks(Video(2 * steps * cut[0], steps)))
    keys_and_values, bfloat16, branches = 2, 2, 2
    per_frame = keys_and_values * WAN.tokens_per_frame * WAN.model_dim * bfloat16
    return frames * per_frame * branches * WAN_LAYERS


def _work(
    size: Size, cache: FeatureCache, cut: tuple[int, int], layers: int, device: str
) -> Denoising:
    """Return a short video's denoising by a transformer without trained weights."""
    backbone = _backbone(size, layers, device)
    text = backbone.condition_text(
        {"states": torch.zeros(2, size.tokens, size.text, device=device)}
    )
    queue = FifoQueue(*cut)
    source = NoiseSource(seed=0, channels=16, height=size.height, width=size.width)
    return Denoising(
        backbone=backbone,
        tasks=queue.tasks(Video(_frames(cut), STEPS)),
        noise=SharedPool().blocks(source, queue.blocks(_frames(cut))),
        cache=cache,
        sampler=DiffusersSampler(FlowMatchEulerDiscreteScheduler(shift=3.0), STEPS),
        guidance=ClassifierFreeGuidance(GuidanceSettings(scales=(5.0,))),
        text=lambda *_: text,
        height=size.height,
        width=size.width,
        device=torch.device(device),
    )


@cache_calls
def _backbone(size: Size, layers: int, device: str) -> WanBackbone:
    torch.manual_seed(0)
    with torch.device(device):
        transformer = WanTransformer3DModel(
            num_attention_heads=size.heads,
            attention_head_dim=size.head_dim,
            text_dim=size.text,
            ffn_dim=size.ffn,
            num_layers=layers,
        )
    spec = BackboneSpec(
        name="Wan without trained weights",
        channels=16,
        patch=(1, 2, 2),
        heads=size.heads,
        head_dim=size.head_dim,
        layers=layers,
        native_frames=21,
        compression=Compression(temporal=4, spatial=8),
    )
    return WanBackbone(spec, [transformer.requires_grad_(False).eval()], range(layers))


if __name__ == "__main__":
    main()
