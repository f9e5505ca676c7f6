"""Measures what journal and snapshots cost, and how large snapshots are against prediction.

    python benchmarks/resume.py

Makes the same video of a small model again and again in one process, with everything that a run
saves (journal of finished blocks, snapshots as often as ``auto`` takes them) and with nothing of
it, taking turns; told is the median of the ratios of pairs. ``auto`` waits 10 seconds at least
between two snapshots, which a run of seconds would never reach: here that limit is lifted, so
that what is measured is the share that the interval is to keep.

With ``--ranks 2`` the same through two processes of a layer pipeline.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table

from longtake.caches import NextBlockKV, RollingKV
from longtake.comm.communicator import Communicator
from longtake.framework import Engine, GenerationConfig, PromptAt, Request
from longtake.framework.engine import interval
from longtake.framework.engine.journal import Journal
from longtake.framework.engine.keeper import RunKeeper
from longtake.framework.engine.run_folder import RunFolder
from longtake.framework.engine.snapshot_files import SnapshotFiles
from longtake.noise import Independent
from longtake.schedulers import CascadeQueue, FifoQueue
from longtake.strategies import BlockDone, DualParal, SingleDevice, TaskDone
from longtake.testing.ranks import rank_pool

METHODS: dict[str, Callable[[str], GenerationConfig]] = {
    "NextBlockKV": lambda pipeline: GenerationConfig(
        pipeline, scheduler=FifoQueue(4, 4), cache=NextBlockKV(), steps=8, dtype="float32"
    ),
    "RollingKV": lambda pipeline: GenerationConfig(
        pipeline,
        scheduler=CascadeQueue(4),
        cache=RollingKV(12, 4),
        noise=Independent(),
        steps=8,
        dtype="float32",
    ),
}


@dataclass(frozen=True)
class Made:
    """One run.

    Args:
        seconds: From its first task to its last frame.
        snapshots: How many were taken.
        bytes: Of the last one.
    """

    seconds: float
    snapshots: int
    bytes: int


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--frames", type=int, default=257)
    parser.add_argument("--ranks", type=int, default=1)
    given = parser.parse_args()
    rows = []
    for name in METHODS:
        runs = make_all(name, given.pipeline, given.pairs, given.frames, given.ranks)
        plain, saved = runs[::2], runs[1::2]
        ratios = [
            with_.seconds / without.seconds for without, with_ in zip(plain, saved, strict=True)
        ]
        rows.append(
            [
                name,
                f"{median(run.seconds for run in plain):.2f}",
                f"{100 * (median(ratios) - 1):+.1f} % ({100 * (min(ratios) - 1):+.1f} to "
                f"{100 * (max(ratios) - 1):+.1f})",
                str(saved[-1].snapshots),
                f"{saved[-1].bytes / 1e6:.2f}",
            ]
        )
    header = ["cache", "seconds", "with journal and snapshots", "snapshots", "MB of the last"]
    sys.stdout.write(f"{machine()}; {given.ranks} rank(s)\n\n{table(header, rows)}\n")


def make_all(name: str, pipeline: str, pairs: int, frames: int, ranks: int) -> list[Made]:
    """Return runs without and with all that is saved, taking turns, but for the first pair."""
    if ranks == 1:
        return taking_turns(Communicator.alone(), name, pipeline, pairs, frames)
    return rank_pool(ranks).run(taking_turns, name, pipeline, pairs, frames)[0]


def taking_turns(
    communicator: Communicator, name: str, pipeline: str, pairs: int, frames: int
) -> list[Made]:
    """Make the runs on one rank."""
    ranks = communicator.world_size
    strategy = SingleDevice() if ranks == 1 else DualParal(stages=ranks, decode_devices=0)
    engine = Engine(METHODS[name](pipeline), strategy, world_size=ranks, rank=communicator.rank)
    video = Request(
        prompts=(PromptAt(text="a red circle"),), num_frames=frames, height=64, width=64
    )
    engine.check([video])
    if ranks > 1:
        engine.join(communicator)
    made = []
    base = Path(tempfile.gettempdir()) / "longtake-benchmark-resume"  # all ranks see it
    with mock.patch.object(interval, "SHORTEST", 0.0):
        for number in range(2 * (pairs + 1)):
            saves = number % 2 == 1
            out = base / f"{name}-{number}"
            made.append(make(engine, replace(video, index=number), out if saves else None))
            if communicator.rank == 0:
                shutil.rmtree(base, ignore_errors=True)
    return made[2:]


@torch.no_grad()
def make(engine: Engine, video: Request, out: Path | None) -> Made:
    """Make one video, and save what a run saves if there is a folder for it."""
    keeper = RunKeeper(RunFolder(out or Path("nowhere")), "never" if out is None else "auto")
    engine.keep(keeper)
    journal = None if out is None else Journal(out / f"{video.index:04d}")
    start, taken = time.perf_counter(), set[int]()
    for event in engine.generate(video):
        if journal is not None and isinstance(event, BlockDone):
            journal.append(event.block, event.frames, event.latents)
        if journal is not None and isinstance(event, TaskDone):
            taken.update(SnapshotFiles(journal.folder.parent).cuts())
    seconds = time.perf_counter() - start
    size = 0
    if journal is not None:
        files = sorted((journal.folder.parent / "snapshots").glob("*.safetensors"))
        last = files[-1].name.partition("-")[0] if files else ""
        size = sum(file.stat().st_size for file in files if file.name.startswith(last))
    return Made(seconds, len(taken), size)


if __name__ == "__main__":
    main()
