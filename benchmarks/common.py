"""What the benchmarks share: the machine in words, memory of this process, tables.

Imports nothing heavy: the parent of a memory measurement stays small.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median

import psutil

from longtake.processor import processor_name

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

STEADY_ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
"""Makes glibc give freed memory back at once.

Left alone, glibc raises its mmap threshold whenever a large block is freed, and keeps free memory
in one arena per thread: resident memory then also tells about the order of frees. With these,
resident memory is what the program holds.
"""

PEAK, NOW = "VmHWM", "VmRSS"


def resident(what: str = NOW) -> int:
    """Return this process's resident bytes: ``NOW`` or the ``PEAK`` since ``reset_peak``.

    Read from ``/proc``: ``getrusage``'s maximum also counts what the parent held before ``exec``.
    """
    found = re.search(rf"^{what}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def reset_peak() -> None:
    """Let the peak begin anew, so that what loading needed does not hide what follows."""
    Path("/proc/self/clear_refs").write_text("5")


def machine() -> str:
    """Return date, machine, load and versions in one line."""
    threads = os.environ.get("OMP_NUM_THREADS", "default")
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {psutil.cpu_count()} x {processor_name()}, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB; load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, torch {version('torch')}, "
        f"OMP_NUM_THREADS {threads}"
    )


def measured_apart(
    script: str, options: Namespace, mode: str, environment: Mapping[str, str] = STEADY_ALLOCATOR
) -> dict[int, list[dict[str, float]]]:
    """Return what a script measures of each length, in processes of their own, in turn.

    Args:
        script: Of the benchmark; as ``--child MODE`` it prints its measurement as JSON.
        options: Of its command line: ``frames`` (the lengths), ``repeats``, ``pipeline``, ``size``.
        mode: What the child does.
        environment: What is set for it.
    """
    found: dict[int, list[dict[str, float]]] = {frames: [] for frames in options.frames}
    for _ in range(options.repeats):
        for frames in options.frames:
            found[frames].append(measured_once(script, options, mode, frames, environment))
    return found


def measured_once(
    script: str,
    options: Namespace,
    mode: str,
    frames: int,
    environment: Mapping[str, str] = STEADY_ALLOCATOR,
) -> dict[str, float]:
    """Return one measurement of ``measured_apart``."""
    command = [sys.executable, script, "--child", mode, "--frames", str(frames), str(frames)]
    command += ["--pipeline", options.pipeline, "--size", str(options.size)]
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return ``mean (min to max)``."""
    low, high = min(values), max(values)
    return f"{mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def middle(values: Sequence[float], digits: int = 2) -> str:
    """Return ``median (min to max)``: what other processes disturb least."""
    low, center, high = min(values), median(values), max(values)
    return f"{center:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def megabytes(values: Sequence[float]) -> str:
    """Return ``median (min to max)`` of bytes, in MB."""
    low, middle, high = (pick(values) / 1e6 for pick in (min, median, max))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def growth(short: Sequence[float], long: Sequence[float]) -> str:
    """Return how much larger the median of ``long`` is, in percent."""
    return f"{100 * (median(long) / median(short) - 1):+.1f} %"
