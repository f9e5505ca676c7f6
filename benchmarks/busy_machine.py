"""Measures what a second run on the same cores costs, with each way in which threads may wait.

    python benchmarks/busy_machine.py

Each policy has two processes of its own, which load the bundled model once. Then they make the same
short video again and again, one alone and both at once, the policies in turn:

- *OpenMP's own*: threads spin for 3 ms before they sleep; what PyTorch does by itself;
- *longtake's*: threads sleep at once;
- *longtake's, late*: PyTorch was loaded before longtake, as in a user's script;
- *one thread*: nobody to wait for.

Told are medians of wall time and of CPU time, the ratio of two at once to one alone (bar: 2.2) and
of one alone to one alone with OpenMP's own policy (bar: not above 1, but for noise). A video costs
what it costs in CPU seconds; all above that is spent on waiting. All policies must give the same
frames. Beside other load, wall times say little: then go by CPU seconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, middle, table

POLICIES: dict[str, dict[str, str]] = {
    "OpenMP's own": {"GOMP_SPINCOUNT": "300000"},
    "longtake's": {},
    "longtake's, late": {"LATE": "1"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
OURS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
"""What the caller's environment says of these is left out."""
PROMPT = "a blue square moving vertically on a black background"


@dataclass(frozen=True, slots=True)
class Sample:
    """What one video took: wall seconds, CPU seconds, and the hash of its frames."""

    wall: float
    cpu: float
    frames: str


@dataclass(frozen=True, slots=True)
class Policy:
    """Two processes with the same policy, and what has been measured of them."""

    processes: list[subprocess.Popen[str]]
    alone: list[Sample] = field(default_factory=list)
    at_once: list[Sample] = field(default_factory=list)

    def warm_up(self) -> None:
        """Wait until the processes are there; the first video of each is slower than the next."""
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        _make(self.processes)

    def measure(self) -> None:
        """Make the video once alone and once twice at the same time."""
        self.alone.extend(_make(self.processes[:1]))
        self.at_once.append(max(_make(self.processes), key=lambda sample: sample.wall))


def main() -> None:
    """Start the processes, measure, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="videos alone, and pairs of them")
    parser.add_argument("--frames", type=int, default=17, help="video frames of 64 x 64")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.frames, options.steps)
        return
    command = [sys.executable, __file__, "--serve"]
    command += ["--frames", str(options.frames), "--steps", str(options.steps)]
    policies = {name: _start(command, own) for name, own in POLICIES.items()}
    for policy in policies.values():
        policy.warm_up()
    for _ in range(options.rounds):
        for name, policy in policies.items():
            policy.measure()
            last = f"{policy.alone[-1].wall:.2f} s alone, {policy.at_once[-1].wall:.2f} s at once"
            print(f"{name}: {last}", file=sys.stderr, flush=True)
    for policy in policies.values():
        for process in policy.processes:
            process.communicate()
    _emit(policies)


def serve(frames: int, steps: int) -> None:
    """Be a process that makes a video for every line that it is sent."""
    if "LATE" in os.environ:
        import torch  # noqa: F401
    import hashlib
    import time

    from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
    from longtake.schedulers import FifoQueue
    from longtake.strategies import SingleDevice
    from longtake.threads import brief_spins

    generation_config = GenerationConfig(
        pipeline="demo", scheduler=FifoQueue(8, 8), steps=steps, guidance_scale=2.0, dtype="float32"
    )
    request = Request(prompts=(PromptAt(text=PROMPT),), num_frames=frames, height=64, width=64)
    engine = Engine(generation_config, SingleDevice())
    engine.load([request])
    print("ready", flush=True)
    with brief_spins(os.environ):
        for _ in sys.stdin:
            wall, cpu = time.perf_counter(), time.process_time()
            made = hashlib.sha256()
            for event in engine.generate(request):
                if isinstance(event, FramesDecoded):
                    made.update(event.frames.numpy().tobytes())
            took = time.perf_counter() - wall, time.process_time() - cpu
            print(*took, made.hexdigest(), flush=True)


def _start(command: list[str], own: dict[str, str]) -> Policy:
    environment = {name: value for name, value in os.environ.items() if name not in OURS} | own
    processes = [
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    return Policy(processes)


def _make(processes: Sequence[subprocess.Popen[str]]) -> list[Sample]:
    """Have each process make the video, all at once."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    samples = []
    for process in processes:
        assert process.stdout is not None
        wall, cpu, frames = process.stdout.readline().split()
        samples.append(Sample(float(wall), float(cpu), frames))
    return samples


def _emit(policies: dict[str, Policy]) -> None:
    made = {sample.frames for policy in policies.values() for sample in policy.alone}
    made |= {sample.frames for policy in policies.values() for sample in policy.at_once}
    assert len(made) == 1, "the policies give different frames"
    default = median(sample.wall for sample in policies["OpenMP's own"].alone)
    rows = []
    for name, policy in policies.items():
        alone = [sample.wall for sample in policy.alone]
        at_once = [sample.wall for sample in policy.at_once]
        rows.append(
            [
                name,
                middle(alone),
                middle([sample.cpu for sample in policy.alone]),
                middle(at_once),
                middle([sample.cpu for sample in policy.at_once]),
                f"{median(at_once) / median(alone):.2f}",
                f"{median(alone) / default:.2f}",
            ]
        )
    print(machine())
    print(
        table(
            ["threads", "one alone, s", "its CPU s", "two at once, s", "CPU s of the later one",
             "two / alone", "alone / OpenMP's"],
            rows,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
