"""Measures what longtake's engine and Lightning cost beside the model's own work.

    python benchmarks/framework_overhead.py

Makes the same video twice, again and again in one process: with ``InferenceTrainer.predict`` on a
single device, and with the plain loop below, which is what a script without longtake would do:
the same calls of the model (embed, layers, head, attention kernel, sampler step, VAE), the same
schedule of windows (FIFO queue, SameStepKV) worked out by hand, keys and values in dictionaries.
Both must give the same bytes. Weights and prompts are loaded before; no file is written.

Which of the two goes first alternates; told are the median of the pairs' ratios in wall time and
in CPU time (which other processes disturb less). The bar is 3 % on a model whose task takes 20 ms
or more; the tasks of real models take seconds.
"""

from __future__ import annotations

import argparse
import copy
import cProfile
import logging
import pstats
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table

from longtake.caches import SameStepKV
from longtake.framework.callbacks.base import LongtakeCallback
from longtake.framework.data import PromptData
from longtake.framework.engine.events import FramesDecoded
from longtake.framework.module import VideoModule
from longtake.framework.trainer import InferenceTrainer
from longtake.models import (
    AnyBackbone,
    AnyDecoder,
    Grid,
    LayerContext,
    Operand,
    Placement,
    PromptStates,
    Rotary,
    family_of,
    load_scheduler,
    open_folder,
)
from longtake.models.layers.kernel import attention_kernel, made
from longtake.noise import NoiseSource, SharedPool
from longtake.schedulers import FifoQueue
from longtake.task import FrameRange

PROMPT = "a red circle moving diagonally on a teal background"
BLOCK, SCALE, SEED = 6, 4.0, 0


KeysValues = tuple[Tensor, Tensor]


@dataclass
class Model:
    """What a script has loaded before it begins.

    Attributes:
        backbone: The transformer.
        decoder: The VAE.
        scheduler: diffusers' scheduler, its timesteps set.
        states: Text encoder states of the prompt and of the empty one.
    """

    backbone: AnyBackbone
    decoder: AnyDecoder
    scheduler: Any
    states: PromptStates


class Script:
    """Makes one long video without longtake's engine, caches, events and Lightning.

    Args:
        model: What is loaded.
        frames: Video frames.
        side: Latent height and width.
    """

    def __init__(self, model: Model, frames: int, side: int) -> None:
        spec = model.backbone.spec
        self.model, self.side = model, side
        self.cuts = [FrameRange(0, 2 * BLOCK)]
        total = spec.compression.latent_frames(frames)
        for start in range(2 * BLOCK, total, BLOCK):
            self.cuts.append(FrameRange(start, min(start + BLOCK, total)))
        self.text = model.backbone.condition_text(model.states)
        self.levels = [
            model.backbone.condition_step(float(t), SCALE) for t in model.scheduler.timesteps
        ]
        source = NoiseSource(seed=SEED, channels=spec.channels, height=side, width=side)
        self.noise = SharedPool().blocks(source, self.cuts)
        self.latents: dict[int, Tensor] = {}
        self.samplers: dict[int, Any] = {}
        self.rotary: dict[int, Rotary] = {}
        self.heads: dict[tuple[int, int], KeysValues] = {}
        self.tails: dict[tuple[int, int, int], KeysValues] = {}

    def video(self) -> Tensor:
        """Make the video, uint8 ``(frames, height, width, 3)``."""
        steps, decoder = len(self.levels), self.model.decoder
        state, frames = decoder.start(), []
        for iteration in range(len(self.cuts) + steps - 1):
            newest, oldest = min(iteration, len(self.cuts) - 1), max(0, iteration - steps + 1)
            for block in range(newest, oldest - 1, -1):
                self.task(block, iteration - block)
            if iteration - oldest == steps - 1:
                for part in decoder.decode(state, self.latents.pop(oldest)):
                    pixels = part.mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
                    frames.append(pixels.permute(0, 2, 3, 1).contiguous())
        return torch.cat(frames)

    def task(self, block: int, step: int) -> None:
        """Run one step of one block."""
        backbone, scheduler = self.model.backbone, self.model.scheduler
        if step == 0:
            self.latents[block] = next(self.noise)
            self.samplers[block] = copy.deepcopy(scheduler)
        grid = Grid.of(self.cuts[block], height=self.side, width=self.side)
        level = self.levels[step]
        if step == 0 and backbone.positions is not None:
            self.rotary[block] = backbone.positions.table(grid)
        context = LayerContext(
            text=self.text, step=level, rotary=self.rotary[block], kernel=attention_kernel
        )
        hidden = backbone.embed(self.latents[block], grid, context).expand(2, -1, -1)
        for layer in range(backbone.spec.layers):
            attend = partial(self.attend, block, step, layer)
            hidden = backbone.layer(layer, hidden, context, attend)
        with_text, without = backbone.head(hidden, grid, context).float().chunk(2)
        self.latents[block] = self.samplers[block].step(
            without + SCALE * (with_text - without),
            scheduler.timesteps[step],
            self.latents[block],
            return_dict=False,
        )[0]

    def attend(
        self, block: int, step: int, layer: int, q: Operand, k: Operand, v: Operand
    ) -> Tensor:
        """Attend to the block and to both neighbors' keys and values."""
        v, k, q = made(v), made(k), made(q)
        per_frame = k.shape[1] // len(self.cuts[block])
        seen = BLOCK * per_frame
        keys, values = [k], [v]
        if block > 0:
            before = self.tails.pop((block - 1, step, layer))
            keys.insert(0, before[0])
            values.insert(0, before[1])
            if step + 1 < len(self.levels):
                self.heads[block, layer] = (k[:, :seen], v[:, :seen])
        if block + 1 < len(self.cuts):
            if step > 0:
                after = self.heads.pop((block + 1, layer))
                keys.append(after[0])
                values.append(after[1])
            self.tails[block, step, layer] = (k[:, -seen:], v[:, -seen:])
        return attention_kernel(q, torch.cat(keys, dim=1), torch.cat(values, dim=1))


class Collect(LongtakeCallback):
    """Keeps the video frames, as the script does."""

    def __init__(self) -> None:
        self.frames: list[Tensor] = []

    def on_frames(self, trainer: Any, module: Any, event: FramesDecoded) -> None:
        """Keep them."""
        self.frames.append(event.frames)


def main() -> None:
    """Alternate the two and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--frames", type=int, default=129, help="video frames")
    parser.add_argument("--size", type=int, default=128, help="height and width in pixels")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--profile", action="store_true", help="say where Lightning's path spends")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(lightning|torch)\b.*")
    print(machine(), flush=True)
    script, (framework, model) = _script(options), _framework(options)
    assert torch.equal(script(), framework()), "the two make different videos"  # and warm up
    if options.profile:
        _profile(framework)
        return
    pairs = []
    for pair in range(options.pairs):
        first, second = (script, framework) if pair % 2 else (framework, script)
        times = {run: _times(run) for run in (first, second)}
        pairs.append((times[script], times[framework]))
    assert model.engine is not None
    _report(options, pairs, model.engine.timings.seconds["denoise"] / (1 + len(pairs)))


def _times(run: Callable[[], Tensor]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def _report(
    options: argparse.Namespace,
    pairs: list[tuple[tuple[float, float], tuple[float, float]]],
    denoise: float,
) -> None:
    latent_frames = 1 + (options.frames - 1) // 4
    tasks = options.steps * (1 + -(-(latent_frames - 2 * BLOCK) // BLOCK))
    rows = []
    for index, clock in enumerate(("wall", "CPU")):
        bare, framework = ([run[index] for run in runs] for runs in zip(*pairs, strict=True))
        ratios = [after / before for before, after in zip(bare, framework, strict=True)]
        low, middle, high = (100 * (pick(ratios) - 1) for pick in (min, median, max))
        overhead = f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"
        differences = [after - before for before, after in zip(bare, framework, strict=True)]
        per_task = f"{1e3 * median(differences) / tasks:+.2f}"
        rows.append([clock, f"{median(bare):.3f}", f"{median(framework):.3f}", overhead, per_task])
    print(f"{options.frames} video frames, {options.size} x {options.size}, the same bytes;")
    print(f"{tasks} tasks of {1e3 * denoise / tasks:.1f} ms, and decode; {len(pairs)} pairs\n")
    header = ["clock", "script, s", "longtake, s", "overhead, % (min to max)", "ms per task"]
    print(table(header, rows))


def _framework(options: argparse.Namespace) -> tuple[Callable[[], Tensor], VideoModule]:
    """Return what makes the video with longtake, and its module, which loads in the first run."""
    collect = Collect()
    trainer = InferenceTrainer(accelerator="cpu", callbacks=[collect])
    model = VideoModule(
        options.pipeline,
        scheduler=FifoQueue(BLOCK, BLOCK),
        cache=SameStepKV(),
        steps=options.steps,
        guidance_scale=SCALE,
        dtype="float32",
    )
    data = PromptData(
        [PROMPT], num_frames=options.frames, height=options.size, width=options.size, seed=SEED
    )

    def run() -> Tensor:
        collect.frames.clear()
        trainer.predict(model, data)
        return torch.cat(collect.frames)

    return run, model


def _script(options: argparse.Namespace) -> Callable[[], Tensor]:
    """Return what makes the video with the plain loop."""
    folder, place = open_folder(options.pipeline), Placement(torch.device("cpu"), torch.float32)
    family = family_of(folder)
    spec = family.spec(folder)
    scheduler = load_scheduler(folder, None, None)
    scheduler.set_timesteps(options.steps)
    scheduler.set_begin_index(0)
    model = Model(
        family.load_backbone(folder, spec, range(spec.layers), place),
        family.load_decoder(folder, place.device),
        scheduler,
        family.encode_text(folder, [PROMPT, ""], place),
    )
    side = options.size // spec.compression.spatial

    @torch.no_grad()
    def run() -> Tensor:
        return Script(model, options.frames, side).video()

    return run


def _profile(framework: Callable[[], Tensor]) -> None:
    profiler = cProfile.Profile()
    profiler.runcall(framework)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    main()
