"""Measures how busy each part of a run keeps the cores, and how busy they are beside each other.

    python benchmarks/beside.py --before ../another-checkout

First each part of the bundled demonstration is run alone, one after another: denoising, decoding,
conversion to bytes, conversion to the encoder's colors, and all that writing a file takes, which
includes the latter. *busy* is CPU seconds / (cores x wall seconds): what is missing from 1 is
there to be used by another part.

Then the whole run is made again and again, by this checkout and by those named with ``--before``,
taking turns, each in a process of its own; importing and reading options are left out. *over the
bound* is wall seconds / (CPU seconds / cores): 1 would be parts that never wait. All checkouts
must write the same bytes, or it ends with an error.

Both say something on a machine that does nothing else only; the load is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import ROOT, machine, middle, table

DEMO = ROOT / "configs" / "demo.yaml"
CORES = len(os.sched_getaffinity(0))
ZOOM, SIZE, FPS, PROMPT = 4, 64, 16, "a red circle moving diagonally on a teal background"
"""As in configs/demo.yaml."""


@dataclass(slots=True)
class Clocks:
    """Wall and CPU seconds of this process, all of its threads, in parts."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add what the ``with`` block takes."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu

    @property
    def busy(self) -> float:
        """CPU seconds over what all cores could have given."""
        return self.cpu / (CORES * self.wall)


@dataclass(frozen=True, slots=True)
class Checkout:
    """A source tree, a process that runs it, what that says to stderr, and its runs."""

    name: str
    process: subprocess.Popen[str]
    said: IO[str]
    runs: list[Clocks] = field(default_factory=list)
    videos: set[str] = field(default_factory=set)

    @classmethod
    def started(cls, name: str, path: Path, frames: int) -> Checkout:
        """Start a process that makes the video whenever it is told to."""
        said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", "--frames", str(frames)],
            env={**os.environ, "PYTHONPATH": str(path.resolve() / "src")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
        return cls(name, process, said)

    def run(self) -> tuple[Clocks, str]:
        """Make the video once; return what it took, and its hash."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        done = self.process.stdout.readline().split()
        if not done:
            self.said.seek(0)
            last = "".join(self.said.readlines()[-5:])
            raise SystemExit(f"{self.name} does not run under this benchmark:\n{last}")
        wall, cpu, video = done
        return Clocks(float(wall), float(cpu)), video

    def measure(self) -> None:
        """Make the video once and keep what it took."""
        clocks, video = self.run()
        self.runs.append(clocks)
        self.videos.add(video)
        print(f"{self.name}: {clocks.wall:.2f} s, CPU {clocks.cpu:.2f} s", file=sys.stderr)


def main() -> None:
    """Measure the parts, then whole runs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=257, help="video frames of 64 x 64")
    parser.add_argument("--rounds", type=int, default=5, help="whole runs of each checkout")
    parser.add_argument(
        "--before", type=Path, action="append", default=[], help="another checkout, or several"
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.frames)
        return
    print(f"{machine()}\n\n{parts(options.frames)}\n", flush=True)
    paths = {path.name: path for path in options.before} | {"this one": ROOT}
    checkouts = [Checkout.started(name, path, options.frames) for name, path in paths.items()]
    for checkout in checkouts:
        checkout.run()  # the first of each process is slower than the next
    for _ in range(options.rounds):
        for checkout in checkouts:
            checkout.measure()
    for checkout in checkouts:
        checkout.process.communicate()
    if len(videos := set().union(*(checkout.videos for checkout in checkouts))) > 1:
        raise SystemExit(f"the checkouts do not write the same bytes: {sorted(videos)}")
    print(f"{machine()}\n\n{whole(checkouts)}")


def serve(frames: int) -> None:
    """Make the demonstration as the command line does, at each line of input."""
    import longtake  # noqa: F401 - before PyTorch, so that threads sleep where they wait
    from longtake.framework.main import main as longtake_main
    from longtake.framework.trainer import InferenceTrainer

    lightning: Any = InferenceTrainer.mro()[1]  # its method: the parser reads the subclass's
    predict = lightning.predict

    for _ in sys.stdin:
        clocks = Clocks()

        def timed(*args: Any, clocks: Clocks = clocks, **kwargs: Any) -> Any:
            with clocks.running():
                return predict(*args, **kwargs)

        with tempfile.TemporaryDirectory() as folder:
            command = ["predict", "--config", str(DEMO), "--output", folder]
            command += ["--data.num_frames", str(frames), "--progress", "none"]
            with mock.patch.object(lightning, "predict", timed):
                longtake_main(command)
            video = (Path(folder) / "0000" / "video.mp4").read_bytes()
        print(clocks.wall, clocks.cpu, hashlib.sha256(video).hexdigest(), flush=True)


def parts(frames: int) -> str:
    """Run each part of the demonstration alone, and return a table."""
    import longtake  # noqa: F401, I001 - before PyTorch, so that threads sleep where they wait
    import torch
    from longtake.caches import NextBlockKV
    from longtake.framework import Engine, GenerationConfig, PromptAt, Request
    from longtake.framework.engine.decoding import _to_uint8
    from longtake.framework.writers import Mp4Writer, VideoShape
    from longtake.framework.writers.color import yuv420p
    from longtake.schedulers import FifoQueue
    from longtake.strategies import BlockDone, SingleDevice

    config = GenerationConfig(
        "demo",
        scheduler=FifoQueue(8, 8),
        cache=NextBlockKV(),
        steps=16,
        guidance_scale=2.0,
        dtype="float32",
    )
    request = Request(prompts=(PromptAt(text=PROMPT),), num_frames=frames, height=SIZE, width=SIZE)
    engine, clocks = Engine(config, SingleDevice()), {name: Clocks() for name in PARTS}
    engine.load([request])
    with torch.no_grad():
        with clocks["denoise"].running():
            done = list(engine._denoise(request, 0, None, 0))
        blocks = [one.latents for one in done if isinstance(one, BlockDone)]
        decoder = engine._load_decoder()
        with clocks["decode"].running():
            state = decoder.start_of(engine.workloads.latent_frames(request))
            decoded = [one for block in blocks for one in decoder.decode(state, block)]
            decoded += decoder.finish(state)
        with clocks["convert to bytes"].running():
            pixels = [_to_uint8(one) for one in decoded]
    with clocks["convert to YUV"].running():
        for picture in torch.cat(pixels):
            zoomed = picture.repeat_interleave(ZOOM, 0).repeat_interleave(ZOOM, 1)
            yuv420p(zoomed.contiguous().numpy(), "ITU709")
    shape = VideoShape(height=SIZE, width=SIZE, fps=FPS, zoom=ZOOM)
    with (
        tempfile.TemporaryDirectory() as folder,
        clocks["write, with that"].running(),
        Mp4Writer(Path(folder) / "video.mp4", shape) as writer,
    ):
        for one in pixels:
            writer.write(one)
    rows = [
        [name, f"{one.cpu:.2f}", f"{one.wall:.2f}", f"{one.busy:.2f}"]
        for name, one in clocks.items()
    ]
    return table(["part, alone", "CPU, s", "wall, s", "busy"], rows)


PARTS = ("denoise", "decode", "convert to bytes", "convert to YUV", "write, with that")


def whole(checkouts: Sequence[Checkout]) -> str:
    """Return the table of whole runs."""
    rows = []
    for checkout in checkouts:
        runs = checkout.runs
        pairs = zip(checkouts[0].runs, runs, strict=True)
        rows.append(
            [
                checkout.name,
                middle([one.wall for one in runs]),
                middle([one.cpu for one in runs]),
                f"{median(one.busy for one in runs):.2f}",
                middle([one.wall * CORES / one.cpu for one in runs]),
                middle([one.wall / before.wall for before, one in pairs]),
            ]
        )
    header = ["checkout", "wall, s", "CPU, s", "busy", "over the bound", "wall of the first's"]
    return table(header, rows)


if __name__ == "__main__":
    main()
