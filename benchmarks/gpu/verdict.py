"""Verdicts of the GPU benchmarks: what was measured, whether it passed, what may be claimed.

Each script of this folder is one command. Without a GPU, ``--tiny`` runs it in small on the CPU, to
see that it works: nothing may be claimed then.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.common import machine, table

from longtake.comm.device_queue import settle


@dataclass(frozen=True, slots=True)
class Run:
    """Where a benchmark runs.

    Args:
        device: What is measured.
        tiny: Whether everything is small: a check of the script.
        pipeline: A model's folder or hub id, where the script takes one.
    """

    device: torch.device
    tiny: bool
    pipeline: str = "demo"

    def seconds(self, work: Callable[[], object], turns: int = 5) -> float:
        """Return the median seconds of a piece of work, after one that does not count."""
        work()
        settle(self.device)
        took = []
        for _ in range(1 if self.tiny else turns):
            start = time.perf_counter()
            work()
            settle(self.device)
            took.append(time.perf_counter() - start)
        return median(took)

    def peak(self, work: Callable[[], object]) -> int:
        """Return the bytes that the device held at most during a piece of work; 0 on a CPU."""
        if self.device.type != "cuda":
            work()
            return 0
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        settle(self.device)
        return torch.cuda.max_memory_allocated(self.device)


def begin(about: str | None) -> Run:
    """Read the command line, and say where it runs.

    Args:
        about: The script's docstring.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--tiny", action="store_true", help="in small, on whatever is here")
    parser.add_argument("--pipeline", default="demo", help="a model, where the script takes one")
    options = parser.parse_args()
    tiny = options.tiny
    if not torch.cuda.is_available() and not tiny:
        raise SystemExit("PyTorch finds no CUDA device; --tiny tries the script on the CPU.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
    print(f"{machine()}; {name}\n")
    return Run(device, tiny, options.pipeline)


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(table(header, rows))


def end(run: Run, passed: bool, claim: str) -> None:
    """Print the verdict, and end with status 1 where it has not passed.

    Args:
        run: Where it ran.
        passed: Whether what was measured is as it should be.
        claim: What a reader may say then.
    """
    if run.tiny or run.device.type != "cuda":
        print("\nTRIED: the script works; nothing may be claimed without a GPU and full size.")
        return
    print(f"\n{'PASSED' if passed else 'FAILED'}")
    print(f"may be claimed: {claim}" if passed else "may be claimed: nothing")
    raise SystemExit(not passed)
