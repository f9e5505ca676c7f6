"""Proves that streaming decode is exact and that its memory does not grow with the length.

    python benchmarks/decode_memory.py

1. Decoding a video block by block, the VAE's cache kept, is ``vae.decode`` of the whole: 65
   video frames, in float64, where rounding hides nothing.
2. Peak resident memory of decode and MP4 write above what the process held after loading is the
   same for 65 and for 1,025 video frames, within 5 %.

Each measurement is a process of its own; lengths alternate. Latents are drawn block by block, so
nothing but the decoder, the writer and the encoder could grow. ``--control`` measures the ordinary
way too (decode everything, then write), to show that growth would be seen. glibc is told to give
freed memory back (``benchmarks/common.py``); ``--default_malloc`` leaves it alone. Linux only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import (
    PEAK,
    STEADY_ALLOCATOR,
    growth,
    machine,
    measured_apart,
    measured_once,
    megabytes,
    reset_peak,
    resident,
    table,
)

if TYPE_CHECKING:
    from torch import Tensor

    from longtake.models import ModelFolder

BLOCK = 6
"""Latent frames that are decoded at a time."""


def main() -> None:
    """Measure every length in processes of their own, or be such a process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pipeline", default="demo")
    parser.add_argument("--frames", type=int, nargs=2, default=[65, 1025], metavar=("A", "B"))
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--control", action="store_true", help="also decode the ordinary way")
    parser.add_argument("--default_malloc", action="store_true", help="leave glibc's malloc alone")
    parser.add_argument("--child", choices=["equal", "stream", "whole"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure = {"equal": _equal, "stream": _stream, "whole": _whole}[options.child]
        print(json.dumps(measure(options)))
        return
    print(machine(), flush=True)
    _report(options)


def _report(options: argparse.Namespace) -> None:
    short = options.frames[0]
    environment = {} if options.default_malloc else STEADY_ALLOCATOR
    difference = measured_once(__file__, options, "equal", short, environment)["difference"]
    print(f"streamed and whole decode of {short} video frames, float64: {difference:.1e} apart\n")
    rows = []
    for mode in ["stream", *(["whole"] if options.control else [])]:
        rows += _rows(mode, measured_apart(__file__, options, mode, environment))
    header = ["decode", "video frames", "peak above loaded, MB", "peak, MB", "seconds"]
    print(table(header, rows))


def _rows(mode: str, found: dict[int, list[dict[str, float]]]) -> list[list[str]]:
    above = {n: [run["peak"] - run["loaded"] for run in runs] for n, runs in found.items()}
    peak = {n: [run["peak"] for run in runs] for n, runs in found.items()}
    seconds = {n: min(run["seconds"] for run in runs) for n, runs in found.items()}
    rows = [
        [mode, str(n), megabytes(above[n]), megabytes(peak[n]), f"{seconds[n]:.1f}"] for n in found
    ]
    short, long = found
    rows.append(
        [mode, "growth", growth(above[short], above[long]), growth(peak[short], peak[long])]
    )
    rows[-1].append("")
    return rows


def _latents(folder: ModelFolder, options: argparse.Namespace) -> Iterator[Tensor]:
    """Draw the latents of the video, block by block."""
    from longtake.models import family_of
    from longtake.noise import NoiseSource

    spec = family_of(folder).spec(folder)
    side = options.size // spec.compression.spatial
    source = NoiseSource(seed=0, channels=spec.channels, height=side, width=side)
    total = spec.compression.latent_frames(options.frames[0])
    for block, first in enumerate(range(0, total, BLOCK)):
        yield source.normal(min(BLOCK, total - first), "latents", block)


def _streamed(folder: ModelFolder, options: argparse.Namespace, decoder: Any) -> Iterator[Tensor]:
    state = decoder.start()
    for latents in _latents(folder, options):
        yield from decoder.decode(state, latents)


def _decode_whole(vae: Any, folder: ModelFolder, options: argparse.Namespace) -> Tensor:
    """Decode as diffusers' ``WanPipeline`` does: ``(frames, 3, height, width)``."""
    import torch

    latents = torch.cat(list(_latents(folder, options)), dim=2).to(vae.dtype)
    mean, std = (
        latents.new_tensor(values).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    video: Tensor = vae.decode(latents / (1.0 / std) + mean, return_dict=False)[0]
    return video[0].transpose(0, 1)


def _equal(options: argparse.Namespace) -> dict[str, float]:
    import torch
    from diffusers import AutoencoderKLWan

    from longtake.models import family_of, open_folder

    torch.set_grad_enabled(False)
    folder = open_folder(options.pipeline)
    decoder = family_of(folder).load_decoder(folder, torch.device("cpu"), torch.float64)
    vae = AutoencoderKLWan.from_pretrained(folder.path / "vae", torch_dtype=torch.float64)
    whole = _decode_whole(vae, folder, options)
    streamed = torch.cat(list(_streamed(folder, options, decoder)))
    assert len(streamed) == options.frames[0]
    return {"difference": float((whole - streamed).abs().max())}


def _stream(options: argparse.Namespace) -> dict[str, float]:
    import torch

    from longtake.models import family_of, open_folder

    folder = open_folder(options.pipeline)
    decoder = family_of(folder).load_decoder(folder, torch.device("cpu"))
    return _measured(options, lambda: _streamed(folder, options, decoder))


def _whole(options: argparse.Namespace) -> dict[str, float]:
    import torch
    from diffusers import AutoencoderKLWan

    from longtake.models import open_folder

    folder = open_folder(options.pipeline)
    vae = AutoencoderKLWan.from_pretrained(folder.path / "vae", torch_dtype=torch.float32)
    return _measured(options, lambda: iter([_decode_whole(vae, folder, options)]))


def _measured(options: argparse.Namespace, decode: Any) -> dict[str, float]:
    """Decode and write, and tell the memory before and at the peak."""
    import time

    import torch

    from longtake.framework.writers import Mp4Writer, VideoShape

    torch.set_grad_enabled(False)
    shape = VideoShape(height=options.size, width=options.size, fps=16)
    with tempfile.TemporaryDirectory() as scratch:
        reset_peak()
        loaded, start = resident(), time.perf_counter()
        with Mp4Writer(Path(scratch) / "video.mp4", shape) as writer:
            for frames in decode():
                pixels = frames.mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
                writer.write(pixels.permute(0, 2, 3, 1).contiguous())
        seconds = time.perf_counter() - start
        assert writer.frames == options.frames[0]
    return {"loaded": loaded, "peak": resident(PEAK), "seconds": seconds}


if __name__ == "__main__":
    main()
