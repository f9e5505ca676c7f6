"""Proves that the long-video methods that promise flat memory keep it, whatever the length.

    OMP_NUM_THREADS=1 python benchmarks/method_memory.py

Runs the real command on ``configs/demo.yaml`` with each method, 257 and 2,049 video frames long,
each run a process of its own, and compares the peak resident memory within 5 %, as
``predict_memory.py`` does for a queue of blocks. What the bundled model makes of methods that it
was not trained for is no video worth seeing, but memory does not depend on that. Few steps, no
guidance and 32x32 pixels, so that it ends soon; both lengths fill windows and caches. Linux only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import growth, machine, megabytes, table
from benchmarks.predict_memory import predict

SMALL: Final = {"model.guidance_scale": "1.0", "data.height": "32", "data.width": "32"}
RAW_FRAME: Final = 32 * 32 * 3
"""Bytes of a video frame before it is zoomed and encoded."""
ROLLING: Final = {"model.cache": "RollingKV", "model.cache.frames": "21"}
METHODS: Final[dict[str, dict[str, str]]] = {
    "Autoregressive(3), RollingKV(21)": {
        "model.scheduler": "Autoregressive",
        "model.scheduler.block_frames": "3",
        **ROLLING,
    },
    "CascadeQueue(3), RollingKV(21)": {
        "model.scheduler": "CascadeQueue",
        "model.scheduler.block_frames": "3",
        **ROLLING,
    },
    "RollingWindow(3), RollingKV(21, 3, 24, moved)": {
        "model.scheduler": "RollingWindow",
        "model.scheduler.block_frames": "3",
        "model.timesteps_per": "frame",
        **ROLLING,
        "model.cache.sinks": "3",
        "model.cache.buffer": "24",
        "model.cache.moved_sinks": "true",
    },
    "DiffusionForcing(5, 1, 25), RollingKV(25)": {
        "model.scheduler": "DiffusionForcing",
        "model.scheduler.block_frames": "5",
        "model.scheduler.lag": "1",
        "model.scheduler.length": "25",
        "model.cache": "RollingKV",
        "model.cache.frames": "25",
    },
    "FrameQueue(8, 1), NoCache": {
        "model.scheduler": "FrameQueue",
        "model.scheduler.clip_frames": "8",
        "model.scheduler.partitions": "1",
        "model.timesteps_per": "frame",
        "model.cache": "NoCache",
        "model.steps": "8",
    },
    "Extend(13, 4), NoCache": {
        "model.scheduler": "Extend",
        "model.scheduler.length": "13",
        "model.scheduler.overlap": "4",
        "model.timesteps_per": "frame",
        "model.cache": "NoCache",
    },
}
"""Options of the command, by the method's name in the table."""


def main() -> None:
    """Run every method for both lengths and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, nargs=2, default=[257, 2049], metavar=("A", "B"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--method", choices=METHODS, nargs="*", default=list(METHODS))
    options = parser.parse_args()
    print(machine(), flush=True)
    short, long = options.frames
    header = ["method", f"{short} frames, MB", f"{long} frames, MB", "growth"]
    rows = []
    for name in options.method:
        settings = {**SMALL, "model.steps": str(options.steps)}
        settings |= METHODS[name]
        peaks: dict[int, list[float]] = {short: [], long: []}
        for _ in range(options.repeats):
            for frames in options.frames:
                report = predict(frames, settings)
                peaks[frames].append(report["memory"]["peak_resident_bytes"])
        per_frame = (min(peaks[long]) - min(peaks[short])) / (long - short)
        rows.append(
            [
                name,
                megabytes(peaks[short]),
                megabytes(peaks[long]),
                growth(peaks[short], peaks[long]),
                f"{per_frame:,.0f}",
            ]
        )
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    print(f"\n{options.steps} steps (FrameQueue: 8); a raw video frame has {RAW_FRAME:,} bytes\n")
    print(table([*header, "bytes per further video frame"], rows))


if __name__ == "__main__":
    main()
