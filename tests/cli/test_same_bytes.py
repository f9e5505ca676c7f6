"""The real command with unpinned threads, as users start it: the same bytes on 1 device and 2."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import COMMAND

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
UNPINNED = {name: value for name, value in os.environ.items() if name not in THREADS}


def _files(config: Path, out: Path, *options: str) -> dict[str, bytes]:
    """Make a video; return the file and the latents of every block."""
    done = subprocess.run(
        [*COMMAND, "predict", "--config", str(config), "--trainer.accelerator", "cpu",
         "--output", str(out), "--keep_latents", "all", *options],
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
    folder = tmp_path_factory.mktemp("serial")
    return _files(_config(model, folder), folder / "out")


def _config(model: Path, folder: Path) -> Path:
    file = folder / "tiny.yaml"
    file.write_text(f"""\
model:
  pipeline: {model}
  scheduler: {{class_path: FifoQueue, init_args: {{block_frames: 3, context_frames: 2}}}}
  steps: 3
  dtype: float32
data:
  prompts: [red shape moves left]
  num_frames: 37
  height: 32
  width: 48
""")
    return file


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
    found = _files(_config(model, tmp_path), tmp_path / "out", *options)
    assert found.keys() == serial.keys()
    assert [name for name in serial if found[name] != serial[name]] == []
