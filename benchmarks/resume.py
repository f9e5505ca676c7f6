"""Measures what journal and snapshots cost, and how large snapshots are against prediction.

    python benchmarks/resume.py

Makes the same video of a small model again and again in one process, with everything that a run
saves (journal of finished blocks, snapshots as often as ``auto`` takes them) and with nothing of
it, taking turns. Told are the medians of the ratios of pairs in wall time, and in processor time,
which other processes disturb less (the thread that writes is in it), the share of a run in which
it waited for its journal, or for what it holds to be copied, and the share of its processor time in
which it saved, in whichever thread: on a busy machine the only figure that says something.
``auto`` waits 10 seconds at least between two snapshots, which a run of seconds would never reach:
here it is 1 second, so that what is shown is more than a long run pays, unless ``--shortest 10``
and ``--frames`` say otherwise.

With ``--ranks 2`` the same through two processes of a layer pipeline. ``--sizes`` predicts instead
how large the snapshots of Wan 1.3B and 14B at 480x832 are, from their structures alone.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from longtake.framework.engine.chosen_layout import ChosenLayout
from longtake.framework.engine.disk import snapshot_bytes
from longtake.framework.engine.journal import Journal
from longtake.framework.engine.keeper import RunKeeper
from longtake.framework.engine.preflight import held_frames
from longtake.framework.engine.resolved_model import ResolvedModel
from longtake.framework.engine.run_folder import RunFolder
from longtake.framework.engine.snapshot_cuts import SnapshotCuts
from longtake.framework.engine.workloads import Workloads
from longtake.models import Placement, open_for_plan
from longtake.noise import Independent, SharedPool
from longtake.plan.cost.memory import frame_bytes
from longtake.plan.cost.profiles import profile
from longtake.plan.workload import Workload
from longtake.schedulers import CascadeQueue, FifoQueue
from longtake.strategies import BlockDone, DualParal, SingleDevice
from longtake.strategies.runtime.cuts import CutState
from longtake.testing.ranks import RankPool

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


TAKING: list[float] = []
"""Seconds in which snapshots of the present run were taken."""
SAVING: list[float] = []
"""Processor seconds in which the present run saved something, of all threads."""


def timed_take(cuts: SnapshotCuts, state: CutState) -> None:
    """Take a snapshot, and note how long the run waited for it."""
    before, busy = time.perf_counter(), time.thread_time()
    TAKE(cuts, state)
    TAKING.append(time.perf_counter() - before)
    SAVING.append(time.thread_time() - busy)


def timed_write(cuts: SnapshotCuts, state: CutState) -> None:
    """Write a snapshot in its thread, and note what that took of the processor."""
    busy = time.thread_time()
    WRITE(cuts, state)
    SAVING.append(time.thread_time() - busy)


TAKE, WRITE = SnapshotCuts.take, SnapshotCuts._write


@dataclass(frozen=True)
class Made:
    """One run.

    Args:
        seconds: From its first task to its last frame.
        processor: Seconds of processor time in it, of this rank.
        saving: Those of them in which it saved something.
        waited: Seconds in which it did nothing but write its journal and copy what it holds.
        snapshots: How many were taken, as far as they were still there when a block was finished.
        bytes: Of the last one.
        predicted: The most that one can have.
    """

    seconds: float
    processor: float
    saving: float
    waited: float
    snapshots: int
    bytes: int
    predicted: int


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--frames", type=int, default=257)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--shortest", type=float, default=1.0, help="seconds between snapshots at least"
    )
    parser.add_argument("--sizes", action="store_true", help="predict those of Wan, run nothing")
    given = parser.parse_args()
    if given.sizes:
        header = ["model", "cache", "blocks in flight", "GB at an iteration edge", "GB at most"]
        sys.stdout.write(table(header, list(sizes())) + "\n")
        return
    rows = []
    for name in given.methods:
        runs = make_all(name, given)
        plain, saved = runs[::2], runs[1::2]
        wall = [after.seconds / before.seconds for before, after in zip(plain, saved, strict=True)]
        busy = [
            after.processor / before.processor for before, after in zip(plain, saved, strict=True)
        ]
        rows.append(
            [
                name,
                f"{median(run.seconds for run in plain):.2f}",
                share(wall),
                share(busy),
                f"{100 * median(run.waited / run.seconds for run in saved):.2f} %",
                f"{100 * median(run.saving / run.processor for run in saved):.2f} % "
                f"({1000 * median(run.saving for run in saved):.0f} ms)",
                str(saved[-1].snapshots),
                f"{saved[-1].bytes / 1e6:.2f}",
                f"{saved[-1].predicted / 1e6:.2f}",
            ]
        )
    times = ["seconds", "wall", "processor", "waited", "saving"]
    header = ["cache", *times, "snapshots", "last, MB", "at most"]
    sys.stdout.write(f"{machine()}; {given.ranks} rank(s)\n\n{table(header, rows)}\n")


def sizes() -> Iterator[list[str]]:
    """Yield how large snapshots of published models can be: rows of a table."""
    for model in ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan-AI/Wan2.1-T2V-14B-Diffusers"):
        for steps, guidance, scheduler, cache in (
            (50, 5.0, FifoQueue(8, 8), NextBlockKV()),
            (4, 1.0, CascadeQueue(3), RollingKV(21)),
        ):
            config = GenerationConfig(
                model,
                scheduler=scheduler,
                cache=cache,
                noise=Independent() if isinstance(cache, RollingKV) else SharedPool(),
                steps=steps,
                guidance_scale=guidance,
                dtype="bfloat16",
            )
            place = Placement(torch.device("cpu"), torch.bfloat16)
            resolved = ResolvedModel(config, place, open_for_plan)
            workloads = Workloads(resolved, profile("H100", torch.bfloat16))
            video = Request(
                prompts=(PromptAt(text="a fish"),), num_frames=1025, height=480, width=832
            )
            chosen = ChosenLayout(workloads, SingleDevice(), 1)
            work = workloads.of(video)
            layout = chosen.strategy.layout(1, work)
            most = snapshot_bytes(work, layout)
            between = (held_frames(work) - held_at_edges(work)) * frame_bytes(work, layout, 0)
            yield [
                model.removeprefix("Wan-AI/"),
                type(cache).__name__,
                str(work.blocks_in_flight),
                f"{(most - between) / 1e9:.2f}",
                f"{most / 1e9:.2f}",
            ]


def held_at_edges(work: Workload) -> int:
    """Return the most latent frames whose keys and values are held at an iteration edge."""
    held = most = iteration = 0
    for forward in work.forwards():
        if forward.task.iteration != iteration:
            most, iteration = max(most, held), forward.task.iteration
        held += len(forward.window.keeps) - len(forward.window.drops)
    return most


def share(ratios: Sequence[float]) -> str:
    """Return by how much a run takes longer, in percent: ``median (least to most)``."""
    middle, least, most = (100 * (of(ratios) - 1) for of in (median, min, max))
    return f"{middle:+.1f} % ({least:+.1f} to {most:+.1f})"


def make_all(name: str, given: argparse.Namespace) -> list[Made]:
    """Return runs without and with all that is saved, taking turns, but for the first pair."""
    if given.ranks == 1:
        return taking_turns(Communicator.alone(), name, given)
    return RankPool(given.ranks, timeout=1800.0).run(taking_turns, name, given)[0]


def taking_turns(communicator: Communicator, name: str, given: argparse.Namespace) -> list[Made]:
    """Make the runs on one rank."""
    ranks = communicator.world_size
    strategy = SingleDevice() if ranks == 1 else DualParal(stages=ranks, decode_devices=0)
    engine = Engine(
        METHODS[name](given.pipeline), strategy, world_size=ranks, rank=communicator.rank
    )
    video = Request(
        prompts=(PromptAt(text="a red circle"),), num_frames=given.frames, height=64, width=64
    )
    engine.check([video])
    if ranks > 1:
        engine.join(communicator)
    made = []
    base = Path(tempfile.gettempdir()) / "longtake-benchmark-resume"  # all ranks see it
    with (
        mock.patch.object(interval, "SHORTEST", given.shortest),
        mock.patch.object(SnapshotCuts, "take", timed_take),
        mock.patch.object(SnapshotCuts, "_write", timed_write),
    ):
        for number in range(2 * (given.pairs + 1)):
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
    TAKING.clear()
    SAVING.clear()
    start, taken, busy = time.perf_counter(), set[str](), time.process_time()
    waited = 0.0
    for event in engine.generate(video):
        if journal is not None and isinstance(event, BlockDone):
            before, used = time.perf_counter(), time.thread_time()
            journal.append(event.block, event.frames, event.latents)
            waited += time.perf_counter() - before
            SAVING.append(time.thread_time() - used)
            files = (journal.folder.parent / "snapshots").glob("*.safetensors")
            taken.update(file.name.partition("-")[0] for file in files)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    size = 0
    if journal is not None:
        found = sorted((journal.folder.parent / "snapshots").glob("*.safetensors"))
        last = found[-1].name.partition("-")[0] if found else ""
        size = sum(file.stat().st_size for file in found if file.name.startswith(last))
    predicted = snapshot_bytes(engine.workloads.of(video), engine.chosen.layout)
    saving = sum(SAVING)
    return Made(seconds, busy, saving, waited + sum(TAKING), len(taken), size, predicted)


if __name__ == "__main__":
    main()
