"""Measures what reusing layers saves and costs: layer calls, and the distance to the whole video.

    python benchmarks/layer_reuse.py
    python benchmarks/layer_reuse.py --cache NextBlockKV

Makes one video of the bundled model with every layer, then with ``FirstBlockCache`` at several
thresholds and ``AccumulatedChange``, on one device; then the first threshold on two stages, Ulysses
2 and cfg 2. Of each run: the share of layer calls that are left out, CPU seconds of its ranks
against the whole video's on one device, PSNR of its frames to the whole video's, whether all ranks
decided alike, and whether its latents are the same bits as on one device.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table

from longtake.caches import FeatureCache, NextBlockKV, NoCache
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.plan.ir.actions import Compute
from longtake.reuse import AccumulatedChange, FirstBlockCache, ReuseChoice
from longtake.schedulers import FifoQueue
from longtake.strategies import (
    ActionDone,
    BlockDone,
    Communicator,
    DualParal,
    ParallelStrategy,
    SequenceParallel,
    SingleDevice,
)
from longtake.testing.ranks import RankPool

CACHES: dict[str, FeatureCache] = {"NoCache": NoCache(), "NextBlockKV": NextBlockKV()}
PROMPT = "a red circle moving diagonally on a teal background"


@dataclass(frozen=True, slots=True)
class Made:
    """What one rank has made, and how.

    Args:
        words: By task: whether its layers were reused.
        frames: Of the video, on the output rank.
        latents: Likewise.
        seconds: CPU time of denoising and decoding.
    """

    words: dict[int, bool]
    frames: Tensor | None
    latents: list[Tensor]
    seconds: float


def make(
    communicator: Communicator,
    strategy: ParallelStrategy,
    config: GenerationConfig,
    request: Request,
) -> Made:
    """Make the video on one rank."""
    engine = Engine(config, strategy, world_size=communicator.world_size, rank=communicator.rank)
    engine.check([request])
    engine.join(communicator)
    engine.load([request])
    torch.set_num_threads(1)  # threads that wait for each other would count as busy
    start = time.process_time()
    words, frames, latents = {}, [], []
    for event in engine.generate(request):
        match event:
            case ActionDone(action=Compute() as action, reused=reused):
                words[action.index] = reused
            case FramesDecoded(frames=part):
                frames.append(part)
            case BlockDone():
                latents.append(event.latents)
            case _:
                pass
    seconds = time.process_time() - start
    return Made(words, torch.cat(frames) if frames else None, latents, seconds)


def main() -> None:
    """Make the videos and print a table."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--steps", type=int, default=50, help="Denoising steps.")
    options.add_argument("--frames", type=int, default=65, help="Video frames.")
    options.add_argument("--cache", choices=CACHES, default="NoCache", help="Feature cache.")
    asked = options.parse_args()
    request = Request(
        prompts=(PromptAt(text=PROMPT),), num_frames=asked.frames, height=64, width=64
    )
    plain = GenerationConfig(
        pipeline="demo",
        scheduler=FifoQueue(8, 8),
        cache=CACHES[asked.cache],
        steps=asked.steps,
        guidance_scale=2.0,
        dtype="float32",
    )
    rules: dict[str, ReuseChoice] = {
        "FirstBlockCache 0.05": partial(FirstBlockCache, 0.05),
        "FirstBlockCache 0.1": partial(FirstBlockCache, 0.1),
        "FirstBlockCache 0.2": partial(FirstBlockCache, 0.2),
        "AccumulatedChange 0.2": partial(AccumulatedChange, 0.2),
    }
    alone = Communicator.alone()
    whole = make(alone, SingleDevice(), plain, request)
    layers = Engine(plain, SingleDevice()).model.spec.layers
    rows, first = [], None
    for name, rule in rules.items():
        made = make(alone, SingleDevice(), replace(plain, reuse=rule), request)
        first = first or made
        rows.append(row(name, "1 device", [made], whole, layers, None))
    name, rule = next(iter(rules.items()))
    pool = RankPool(2, timeout=1800.0)
    for where, strategy in {
        "2 stages": DualParal(stages=2, cfg=1, guidance="together"),
        "Ulysses 2": SequenceParallel(ulysses=2, ring=1, cfg=1),
        "cfg 2": DualParal(stages=1, cfg=2),
    }.items():
        ranks = pool.run(make, strategy, replace(plain, reuse=rule), request)
        rows.append(row(name, where, ranks, whole, layers, first))
    print(
        f"{machine()}; {asked.frames} frames, {asked.steps} steps, {layers} layers, {asked.cache}\n"
    )
    header = (
        "rule",
        "where",
        "blocks",
        "forwards",
        "layer calls saved",
        "CPU",
        "PSNR, dB",
        "ranks",
        "bits",
    )
    print(table(header, rows))


def row(
    name: str, where: str, ranks: list[Made], whole: Made, layers: int, first: Made | None
) -> tuple[str, ...]:
    """Return a line of the table; ``first`` is the same rule's run on one device."""
    words = ranks[0].words
    saved = sum(words.values()) * (layers - 1) / (len(words) * layers)
    alike = all(rank.words == words for rank in ranks)
    alone = ""
    if first is not None:
        alone = ", as 1 device" if words == first.words else ", NOT as 1 device"
    bits = "" if first is None else "rounding"
    if first is not None and equal(ranks[0].latents, first.latents):
        bits = "equal"
    cpu = sum(rank.seconds for rank in ranks) / whole.seconds
    assert ranks[0].frames is not None
    assert whole.frames is not None
    decibels = psnr(ranks[0].frames, whole.frames)
    return (
        name,
        where,
        str(len(ranks[0].latents)),
        str(len(words)),
        f"{saved:.1%}",
        f"{cpu:.2f}",
        f"{decibels:.1f}",
        ("alike" if alike else "UNLIKE") + alone,
        bits,
    )


def equal(blocks: list[Tensor], expected: list[Tensor]) -> bool:
    """Return whether all blocks' latents are the same bits."""
    assert blocks
    assert len(blocks) == len(expected)
    return all(map(torch.equal, blocks, expected))


def psnr(frames: Tensor, expected: Tensor) -> float:
    """Return the PSNR of 8-bit frames, in dB."""
    error = (frames.double() - expected.double()).square().mean()
    return float(10 * torch.log10(255**2 / error))


if __name__ == "__main__":
    main()
