"""Proves that streaming encode's memory does not grow with the length, but for its result.

    python benchmarks/encode_memory.py --control

Peak resident memory of encoding a video as a start, above what the process held after loading, for
65 and for 1,025 video frames, from the file to the latents, which are the result and counted. Each
measurement is a process of its own; lengths alternate. ``--control`` measures frames that are
decoded at once and given to ``vae.encode`` as well, to show that growth would be seen. Linux only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import (
    PEAK,
    growth,
    machine,
    measured_apart,
    megabytes,
    reset_peak,
    resident,
    table,
)


def main() -> None:
    """Measure every length in processes of their own, or be such a process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--frames", type=int, nargs=2, default=[65, 1025], metavar=("A", "B"))
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--control", action="store_true", help="also encode all frames at once")
    parser.add_argument("--child", choices=["stream", "whole"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_measured(options)))
        return
    print(machine(), flush=True)
    rows = []
    for mode in ["stream", *(["whole"] if options.control else [])]:
        rows += _rows(mode, measured_apart(__file__, options, mode))
    print(table(["encode", "video frames", "peak above loaded, MB", "seconds of CPU"], rows))


def _rows(mode: str, found: dict[int, list[dict[str, float]]]) -> list[list[str]]:
    above = {n: [run["peak"] - run["loaded"] for run in runs] for n, runs in found.items()}
    seconds = {n: min(run["seconds"] for run in runs) for n, runs in found.items()}
    rows = [[mode, str(n), megabytes(above[n]), f"{seconds[n]:.1f}"] for n in found]
    short, long = found
    return [*rows, [mode, "growth", growth(above[short], above[long]), ""]]


def _measured(options: argparse.Namespace) -> dict[str, float]:
    """Encode, and tell the memory before and at the peak."""
    import torch
    from diffusers import AutoencoderKLWan

    from longtake.framework.engine.conditioning_file import ConditioningFile
    from longtake.models import open_folder
    from longtake.models.wan.encoder import WanEncoder

    torch.set_grad_enabled(False)
    folder, (count, _), size = open_folder(options.pipeline), options.frames, options.size
    with tempfile.TemporaryDirectory() as made:
        file = Path(made, "start.mp4")
        _write(file, count, size)
        work: Any
        if options.child == "stream":
            encoder = WanEncoder.load(folder, torch.device("cpu"))
            work = lambda start, frames: encoder.encode(start.frames(frames, size, size))  # noqa: E731
        else:
            vae = AutoencoderKLWan.from_pretrained(folder.path / "vae", torch_dtype=torch.float32)
            work = lambda start, frames: vae.encode(  # noqa: E731
                start.last(frames, size, size).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
            )
        work(ConditioningFile(str(file)), 9)  # what is made once
        reset_peak()
        loaded, start = resident(), time.process_time()
        work(ConditioningFile(str(file)), count)
        return {"loaded": loaded, "peak": resident(PEAK), "seconds": time.process_time() - start}


def _write(file: Path, count: int, size: int) -> None:
    """Write a video of noise, as many frames as are to be kept."""
    import av
    import numpy as np

    random = np.random.default_rng(0)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for _ in range(count):
            picture = random.integers(0, 256, (size, size, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
