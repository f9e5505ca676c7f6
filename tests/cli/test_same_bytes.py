"""The real command with unpinned threads, as users start it: the same bytes on 1 device and 2."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, tiny_options

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
UNPINNED = {name: value for name, value in os.environ.items() if name not in THREADS}


def _files(model: Path, out: Path, *options: str) -> dict[str, bytes]:
    """Make a video; return the file and the latents of every block."""
    done = subprocess.run(
        [*COMMAND, "predict", *tiny_options(model), *options,
         "--output", str(out), "--keep_latents", "all"],
        capture_output=True, text=True, env=UNPINNED, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    request = out / "0000"
    files = [request / "video.mp4", *sorted((request / "latents").glob("*.safetensors"))]
    assert len(files) == 1 + 3
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def serial(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return what one device makes."""
    return _files(model, tmp_path_factory.mktemp("serial") / "out")


@pytest.mark.parametrize(
    "strategy",
    [
        ("DualParal", "--trainer.strategy.cfg", "1", "--trainer.strategy.guidance", "together"),
        ("SingleDevice", "--trainer.strategy.decode_devices", "1"),
    ],
    ids=["layers", "decoding"],
)
def test_two_devices_make_the_bytes_of_one(
    model: Path, tmp_path: Path, serial: dict[str, bytes], strategy: tuple[str, ...]
) -> None:
    options = ("--trainer.devices", "2", "--trainer.strategy", *strategy)
    found = _files(model, tmp_path / "out", *options)
    assert found.keys() == serial.keys()
    assert [name for name in serial if found[name] != serial[name]] == []
