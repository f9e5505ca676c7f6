"""Measures attention co-processing: a decode rank that attends while it has nothing to decode.

    OMP_NUM_THREADS=1 python benchmarks/aco.py

A random-weight Wan makes a clip (all frames as one block) on two gloo ranks, one that denoises and
one that decodes, with ``aco`` off and on, alternating in one run on the same processes. At the
large size attention dominates; at the small one heads take longer to send than to attend, and none
should be given away. The videos must agree to one level of 256.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, middle, table
from benchmarks.decode_group_runs import Setting, save_model

from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.schedulers import FullSequence
from longtake.strategies import Communicator, SingleDevice
from longtake.strategies.pipedit.head_share import HeadShare, Rates
from longtake.testing.ranks import RankPool

STEPS, HEADS = 8, 8


@dataclass(frozen=True, slots=True)
class Size:
    """A clip.

    Args:
        name: What counts in it.
        side: Pixels.
        latent_frames: Its length.
    """

    name: str
    side: int
    latent_frames: int

    @property
    def tokens(self) -> int:
        """Of the clip."""
        return self.latent_frames * (self.side // 16) ** 2

    @property
    def request(self) -> Request:
        """The video."""
        frames = 1 + 4 * (self.latent_frames - 1)
        prompts = (PromptAt(text="red shape"),)
        return Request(prompts=prompts, num_frames=frames, height=self.side, width=self.side)


SIZES = (Size("attention", 256, 17), Size("little of anything", 64, 5))


@dataclass(slots=True)
class Run:
    """What a rank measured.

    Args:
        denoise: Seconds of denoising.
        given: How often so many heads were given away.
        frames: The video, on the output rank.
    """

    denoise: float
    given: Counter[int]
    frames: Tensor | None


@torch.no_grad()
def make(
    communicator: Communicator, generation_config: GenerationConfig, size: Size, aco: bool
) -> Run:
    """Make a clip as one of two ranks."""
    strategy = SingleDevice(decode_devices=1, aco=aco)
    engine = Engine(generation_config, strategy, world_size=2, rank=communicator.rank)
    engine.check([size.request])
    engine.join(communicator)
    engine.load([size.request])
    given: Counter[int] = Counter()
    measured = HeadShare.measured

    def counting(share: HeadShare, key: tuple[int, ...], rates: Rates) -> None:
        given[rates.given] += 1
        measured(share, key, rates)

    communicator.gather("loaded")
    with patch.object(HeadShare, "measured", counting):
        start = time.perf_counter()
        events = list(engine.generate(size.request))
        seconds = engine.timings.seconds.get("denoise", time.perf_counter() - start)
    frames = [event.frames for event in events if isinstance(event, FramesDecoded)]
    return Run(seconds, given, torch.cat(frames) if frames else None)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(machine())
    rows = []
    pool = RankPool(2, timeout=600)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Setting(name="DiT", heads=HEADS, vae=2), Path(folder))
        generation_config = GenerationConfig(
            pipeline=folder, scheduler=FullSequence(), steps=STEPS, dtype="float32"
        )
        for size in SIZES:
            seconds: dict[bool, list[float]] = defaultdict(list)
            given: Counter[int] = Counter()
            videos: dict[bool, Tensor] = {}
            for aco in (False, True) * rounds:
                output, _ = pool.run(make, generation_config, size, aco)
                seconds[aco].append(output.denoise)
                given.update(output.given)
                assert output.frames is not None
                videos[aco] = output.frames
            assert (videos[True].int() - videos[False].int()).abs().max() <= 1
            ratios = [off / on for off, on in zip(seconds[False], seconds[True], strict=True)]
            heads = ", ".join(f"{count} in {times}" for count, times in sorted(given.items()))
            figures = [middle(seconds[False]), middle(seconds[True]), middle(ratios), heads]
            rows.append([size.name, str(size.tokens), *figures])
    pool.close()
    header = [
        "what counts",
        "tokens",
        "off, s",
        "on, s",
        "off over on",
        "heads given, micro-batchs",
    ]
    print(f"{STEPS} steps, {HEADS} heads; medians of {rounds} rounds\n\n{table(header, rows)}")


if __name__ == "__main__":
    main()
