"""Measures what it costs to look whether a model's files are those that a run was begun with.

    python benchmarks/checksums.py

Writes a file of weights like those of Wan 1.3B, and compares the checksum that a run takes of it
with reading all of it through a checksum, and with what loading does at the least: reading each
tensor, looking for numbers that are not finite, and converting it. Each once with the file out of
the page cache, and once with it there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import machine, table

from longtake.models.loading.checksums import checksum_of_file

LAYERS, DIM = 30, 1536


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=LAYERS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        save_file(
            {
                f"layer {layer}, {name}": torch.randn(DIM, DIM * (6 if name > 7 else 1)).bfloat16()
                for layer in range(given.layers)
                for name in range(10)
            },
            file,
        )
        rows = [
            ["checksum of a run", *both(file, lambda: checksum_of_file(file))],
            ["checksum of all bytes", *both(file, lambda: whole(file))],
            ["loading", *both(file, lambda: load(file))],
        ]
        sys.stdout.write(f"{machine()}; a file of {file.stat().st_size / 1e9:.2f} GB\n\n")
    header = ["", "from the disk: wall, processor", "from memory: wall, processor"]
    sys.stdout.write(table(header, rows) + "\n")


def both(file: Path, work: Callable[[], object]) -> list[str]:
    """Return the seconds of some work, with the file out of the page cache and in it."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return [timed(work), timed(work)]


def timed(work: Callable[[], object]) -> str:
    """Return the seconds of some work."""
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return f"{time.perf_counter() - wall:.3f}, {time.process_time() - busy:.3f} s"


def whole(file: Path) -> None:
    """Read all of a file through the same checksum."""
    with file.open("rb") as content:
        hashlib.file_digest(content, "blake2b")


def load(file: Path) -> None:
    """Read every tensor, look at its numbers, and convert it."""
    with safe_open(file, "pt") as reader:
        for name in list(reader.keys()):
            tensor = reader.get_tensor(name)
            torch.aminmax(tensor)
            tensor.to(torch.float32)


if __name__ == "__main__":
    main()
