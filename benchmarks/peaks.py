"""Peaks of a layer at real proportions: predicted on the meta device, faked, and measured.

    OMP_NUM_THREADS=1 python benchmarks/peaks.py

Wan 1.3B's structure with random weights in float32. Two of its layers are run for real on a CPU, at
the token counts of 480p windows, in a process of its own each time: what resident memory grows by
at most, from before the first layer. The same two layers run on the meta device, as ``longtake
plan`` measures them, and all 30 under ``FakeTensorMode``, with the same count of what lives at the
same time. A layer's activations are gone before the next one's are there: the three should be
equal, and what the kernels need inside is their difference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import NOW, PEAK, STEADY_ALLOCATOR, machine, reset_peak, resident, table

from longtake.models import Grid, LayerContext, open_for_plan
from longtake.models.layers.kernel import attend_with, attention_kernel
from longtake.models.peak import FusedAttention, PeakMemory
from longtake.models.wan import WanFamily
from longtake.models.wan.backbone import WanBackbone
from longtake.models.wan.family import keep_wan_layers
from longtake.task import FrameRange

MODEL: Final = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
HEIGHT, WIDTH = 60, 104
"""Latent, of 480p."""


def backbone_of(layers: int, device: str) -> WanBackbone:
    """Return some layers of the model, of random weights."""
    folder = open_for_plan(MODEL)
    config = folder.config("transformer") | {"num_layers": layers}
    with torch.device(device):
        transformer: Any = WanTransformer3DModel.from_config(config)
    keep_wan_layers(transformer, range(layers))
    transformer.requires_grad_(False)
    return WanBackbone(WanFamily().spec(folder), [transformer], range(layers))


def run(layers: int, frames: int, device: str) -> tuple[int, int]:
    """Run layers on a window; return the peak that was counted, and what the process grew by."""
    backbone, grid = backbone_of(layers, device), Grid.of(FrameRange(0, frames), HEIGHT, WIDTH)
    with torch.device(device):
        prompts = {"states": torch.zeros(1, 512, 4096)}
        latents = torch.zeros(1, 16, frames, HEIGHT, WIDTH)
    step = backbone.condition_step(500.0, guidance=5.0)
    assert backbone.positions is not None
    context: LayerContext[Any, Any] = LayerContext(
        text=backbone.text_at(backbone.condition_text(prompts), step),
        step=step,
        rotary=backbone.positions.table(grid),
        kernel=attention_kernel,
        text_tokens=0,
    )
    hidden: Tensor = backbone.embed(latents, grid, context)
    real = device == "cpu" and not isinstance(hidden, torch._subclasses.FakeTensor)
    reset_peak()
    before, modes = resident(NOW), ExitStack()
    with modes:
        memory = None if real else modes.enter_context(PeakMemory())
        if not real:
            modes.enter_context(FusedAttention())
        for index in range(layers):
            hidden = backbone.layer(index, hidden, context, attend_with(attention_kernel))
    return (0 if memory is None else memory.peak), resident(PEAK) - before


def child(way: str, frames: int) -> None:
    """Print one way's peak as JSON."""
    fake: AbstractContextManager[Any] = FakeTensorMode() if way == "fake" else nullcontext()
    with torch.no_grad(), fake:
        counted, grown = run(30 if way == "fake" else 2, frames, "meta" if way == "meta" else "cpu")
    print(json.dumps(grown if way == "real" else counted))


def found(way: str, frames: int) -> int:
    """Return one way's peak, from a process of its own."""
    command = [sys.executable, __file__, "--child", way, "--frames", str(frames)]
    done = subprocess.run(
        command, env=os.environ | STEADY_ALLOCATOR, stdout=subprocess.PIPE, check=True
    )
    return int(json.loads(done.stdout))


def row(frames: int) -> Sequence[str]:
    """Return the table's row of a window."""
    meta, fake, real = (found(way, frames) for way in ("meta", "fake", "real"))
    sizes = [f"{size / 1e6:,.0f}" for size in (meta, fake, real)]
    return [f"{frames}", f"{frames * 30 * 52:,}", *sizes, f"{100 * (meta / real - 1):+.0f} %"]


def main() -> None:
    """Measure some windows, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--child", choices=("meta", "fake", "real"))
    options = parser.parse_args()
    if options.child:
        child(options.child, options.frames[0])
        return
    print(machine(), flush=True)
    rows = [row(frames) for frames in options.frames]
    header = ["latent frames", "tokens", "MB on meta, 2 layers", "MB faked, 30 layers"]
    print(table([*header, "MB measured, 2 layers", "predicted off"], rows))


if __name__ == "__main__":
    main()
