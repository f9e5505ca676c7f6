"""Measures sequence parallelism on two gloo ranks against diffusers' own, and against the ceiling.

    python benchmarks/sequence_parallel.py

A random-weight Wan in Wan 1.3B's proportions makes one clip (all frames as one block, guidance, a
few steps), one thread per rank, alternating in one run on the same two processes:

- *alone*: longtake's serial run on one rank, the other one idle;
- *twice*: two of them at once: over *alone*, the machine's own ceiling;
- *Ulysses*, *ring*, *in chunks*: longtake's ``SequenceParallel`` on both ranks, the last one
  Ulysses with ``overlap: 2``;
- *diffusers' Ulysses*, *diffusers' ring*: the same model, weights, prompts and noise through
  diffusers' own context parallelism (``enable_parallelism``), both branches as one batch, the
  scheduler's steps in a plain loop. diffusers has no attention for its ring on CPUs: it is given
  the kernel that longtake's ring uses, which tells the log-sum-exp.

All must give the same latents to 1e-4. xDiT itself cannot be a baseline here: its package, xfuser
0.7.0, refuses to be imported on a machine without an accelerator.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from diffusers import ContextParallelConfig
from diffusers.models import attention_dispatch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table
from benchmarks.two_ranks import Size, denoising, prompts_of, transformer

from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.workload import Workload
from longtake.schedulers import FullSequence
from longtake.strategies import BlockDone, Communicator, SequenceParallel, SingleDevice
from longtake.strategies.exchange.log_sum_exp import attention_with_lse
from longtake.testing.ranks import RankPool
from longtake.testing.tiny.base import tiny_scheduler

SCALE, TOLERANCE = 5.0, 1e-4


@dataclass(frozen=True, slots=True)
class Clip:
    """What is run.

    Args:
        name: What counts in it.
        size: Model and picture; its blocks are ignored.
        frames: Latent frames.
        text: Text tokens of a prompt.
    """

    name: str
    size: Size
    frames: int
    text: int


def size_of(layers: int, side: int, steps: int) -> Size:
    """Return a model of 4 heads (Wan 1.3B's proportions) and a square picture."""
    return Size(heads=4, layers=layers, height=side, width=side, blocks=1, steps=steps)


CLIPS = (
    Clip("text and timestep", size_of(layers=6, side=8, steps=6), 5, 512),
    Clip("middling", size_of(layers=6, side=16, steps=4), 8, 512),
    Clip("large", size_of(layers=2, side=32, steps=2), 16, 64),
    Clip("attention", size_of(layers=3, side=32, steps=1), 32, 64),
)


@dataclass(frozen=True, slots=True)
class Run:
    """When one rank began and ended, and what it made (on the first rank)."""

    start: float
    stop: float
    latents: Tensor | None


def workload_of(clip: Clip) -> Workload:
    """Return the clip's workload."""
    return replace(clip.size.workload(1.0), scheduler=FullSequence(), latent_frames=clip.frames)


@torch.no_grad()
def ours(communicator: Communicator, clip: Clip, layout: Layout | None, ranks: int) -> Run | None:
    """Make the clip with longtake: serially on each of ``ranks`` ranks, or as ``layout`` says."""
    if communicator.rank >= ranks:
        return None
    strategy = SingleDevice() if layout is None else SequenceParallel()
    company = Communicator.alone() if layout is None else communicator
    work = denoising(clip.size, workload_of(clip), company, clip.text)
    layout = layout or Layout.serial(clip.size.layers, 2)
    start, latents = time.perf_counter(), None
    for event in strategy.run(work, layout, company.rank):
        if isinstance(event, BlockDone):
            latents = event.latents
    return Run(start, time.perf_counter(), latents)


@lru_cache(maxsize=2)
def parallel_transformer(size: Size, kind: str) -> Any:
    """Return the model with diffusers' own parallelism of a kind among both ranks."""
    model: Any = transformer(size)
    # diffusers takes the rank modulo the number of accelerators, which is 0 here.
    torch.accelerator.device_count = lambda: 1
    model.enable_parallelism(config=ContextParallelConfig(**{f"{kind}_degree": 2}))
    return model


def telling_lse(_: Any, q: Tensor, k: Tensor, v: Tensor, *__: Any, **___: Any) -> Any:
    """Attend as diffusers' ring wants its kernels to."""
    return attention_with_lse(q, k, v)


def their_ring(communicator: Communicator, clip: Clip) -> Run:
    """Make the clip with diffusers' model and its ring."""
    with patch.object(attention_dispatch, "_native_attention_forward_op", telling_lse):
        return theirs(communicator, clip, "ring")


@torch.no_grad()
def theirs(communicator: Communicator, clip: Clip, kind: str = "ulysses") -> Run:
    """Make the clip with diffusers' model and its own context parallelism."""
    model, prompts = parallel_transformer(clip.size, kind), prompts_of(clip.text)
    noise = denoising(clip.size, workload_of(clip), Communicator.alone(), clip.text).noise
    scheduler = tiny_scheduler()
    scheduler.set_timesteps(clip.size.steps)
    start, latents = time.perf_counter(), next(noise)
    for timestep in scheduler.timesteps:
        both = latents.expand(2, -1, -1, -1, -1)
        output = model(both, timestep.expand(2), prompts, return_dict=False)[0]
        with_prompt, without = output.chunk(2)
        guided = without + SCALE * (with_prompt - without)
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
    return Run(start, time.perf_counter(), latents)


def took(runs: list[Any]) -> float:
    """Return the seconds from the first rank's start to the last one's end."""
    there: list[Run] = [run for run in runs if run is not None]
    return max(run.stop for run in there) - min(run.start for run in there)


def measure(pool: RankPool, clip: Clip, rounds: int) -> list[str]:
    """Return a row of the table."""
    serial = Layout.serial(clip.size.layers, 2)
    ulysses, ring = (replace(serial, mesh=mesh) for mesh in (Mesh(ulysses=2), Mesh(ring=2)))
    chunked = replace(ulysses, chunks=2)
    seconds: dict[str, list[float]] = defaultdict(list)
    expected: Tensor | None = None
    for turn in range(rounds + 1):  # the first round warms up
        runs: dict[str, list[Any]] = {
            "alone": pool.run(ours, clip, None, 1),
            "twice": pool.run(ours, clip, None, 2),
            "ulysses": pool.run(ours, clip, ulysses, 2),
            "their ulysses": pool.run(theirs, clip),
            "in chunks": pool.run(ours, clip, chunked, 2),
            "ring": pool.run(ours, clip, ring, 2),
            "their ring": pool.run(their_ring, clip),
        }
        for name, ranks in runs.items():
            latents = ranks[0].latents
            expected = latents if expected is None else expected
            assert latents is not None
            assert expected is not None
            difference = (latents - expected).abs().max() / expected.abs().max()
            assert difference <= TOLERANCE, f"{name} differs by {difference:.1e}"
            if turn:
                seconds[name].append(took(ranks))
    pairs = {
        name: list(zip(seconds["alone"], took_, strict=True)) for name, took_ in seconds.items()
    }
    speedup = {name: median(one / other for one, other in pair) for name, pair in pairs.items()}
    ceiling = 2 * speedup["twice"]
    versus = {
        kind: median(
            them / us for them, us in zip(seconds[f"their {kind}"], seconds[kind], strict=True)
        )
        for kind in ("ulysses", "ring")
    }
    return [
        clip.name,
        f"{clip.frames * clip.size.height * clip.size.width // 4}",
        f"{1e3 * median(seconds['alone']) / clip.size.steps:.0f}",
        f"{ceiling:.2f}",
        f"{speedup['ulysses']:.2f}",
        f"{speedup['in chunks']:.2f}",
        f"{speedup['ring']:.2f}",
        f"{versus['ulysses']:.2f}",
        f"{versus['ring']:.2f}",
        f"{speedup['ulysses'] / ceiling:.2f}",
        f"{speedup['ring'] / ceiling:.2f}",
    ]


def main() -> None:
    """Measure every clip and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clip", help="only the one of this name")
    options = parser.parse_args()
    rounds, clips = options.rounds, [clip for clip in CLIPS if options.clip in (None, clip.name)]
    print(machine())
    pool = RankPool(2, timeout=900)
    rows = [measure(pool, clip, rounds) for clip in clips]
    header = [
        "what counts",
        "tokens",
        "a step alone, ms",
        "ceiling",
        "Ulysses",
        "in chunks",
        "ring",
        "Ulysses over diffusers'",
        "ring over diffusers'",
        "Ulysses, share of the ceiling",
        "ring, share of the ceiling",
    ]
    print(f"Speed-ups over *alone*, medians of {rounds} rounds\n")
    print(table(header, rows))
    pool.close()


if __name__ == "__main__":
    main()
