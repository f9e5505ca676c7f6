"""Proves that the memory of a whole ``longtake predict`` does not grow with the video's length.

    python benchmarks/predict_memory.py

Runs the real command on ``configs/demo.yaml`` for 257 and for 2,049 video frames, each run a
process of its own, lengths alternating, and compares the peak resident memory of the process
within 5 %. Everything is in it: imports, text encoder, weights, queue, feature cache, decoder and
MP4.

Few steps (4) so that it ends soon, and for another reason: with 16 steps the shorter video has
fewer blocks than the queue holds, so the longer one would rightly take more; with 4 both fill it.
Most of the peak is libraries and weights, so the growth is also told in bytes per further video
frame, beside the bytes of one raw video frame.

glibc is told to give freed memory back (``benchmarks/common.py``); with ``--default_malloc`` peaks
of equal runs differ by more than 5 %, whatever the length. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import ROOT, STEADY_ALLOCATOR, growth, machine, megabytes, table

RAW_FRAME = 64 * 64 * 3
"""Bytes of a video frame of ``configs/demo.yaml`` before it is zoomed and encoded."""

COMMAND = [sys.executable, "-m", "longtake", "predict"]


def main() -> None:
    """Run the command for both lengths and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--frames", type=int, nargs=2, default=[257, 2049], metavar=("A", "B"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", default="SameStepKV")
    parser.add_argument("--default_malloc", action="store_true", help="leave glibc's malloc alone")
    options = parser.parse_args()
    print(machine(), flush=True)
    settings = {
        "model.pipeline": options.pipeline,
        "model.cache": options.cache,
        "model.steps": str(options.steps),
    }
    peaks: dict[int, list[float]] = {frames: [] for frames in options.frames}
    seconds: dict[int, list[float]] = {frames: [] for frames in options.frames}
    for _ in range(options.repeats):
        for frames in options.frames:
            report = predict(frames, settings, steady=not options.default_malloc)
            peaks[frames].append(report["memory"]["peak_resident_bytes"])
            seconds[frames].append(report["seconds"])
    rows = [[str(n), megabytes(peaks[n]), f"{median(seconds[n]):.1f}"] for n in options.frames]
    short, long = options.frames
    rows.append(["growth", growth(peaks[short], peaks[long]), ""])
    print(f"{options.cache}, {options.steps} steps\n")
    print(table(["video frames", "peak resident memory, MB", "seconds"], rows))
    per_frame = (median(peaks[long]) - median(peaks[short])) / (long - short)
    print(f"\n{per_frame:,.0f} bytes per further video frame; {RAW_FRAME:,} has a raw one")


def predict(frames: int, settings: Mapping[str, str], *, steady: bool = True) -> dict[str, Any]:
    """Run the command on ``configs/demo.yaml`` and return its report.

    The peak in it is the process's own ``VmHWM``.

    Args:
        frames: Length of the video.
        settings: Options beside the configuration file.
        steady: Whether glibc is told to give freed memory back.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "run"
        options = {
            "config": str(ROOT / "configs" / "demo.yaml"),
            "output": str(output),
            "progress": "none",
            **settings,
            "data.num_frames": str(frames),
        }
        arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
        env = os.environ | (STEADY_ALLOCATOR if steady else {})
        subprocess.run(COMMAND + arguments, env=env, check=True)
        report: dict[str, Any] = json.loads((output / "report.json").read_text())
    assert report["exit_reason"] == "finished"
    assert report["frames"] == frames
    return report


if __name__ == "__main__":
    main()
