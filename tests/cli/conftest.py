from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from longtake.testing.tiny.base import tiny_wan_folder
from tests.cli.command import predict, tiny_options


@dataclass(frozen=True)
class SerialRun:
    """What one device made: 3 blocks, 3 steps.

    Args:
        options: Of the run, beside its output.
        out: Its folder, with all latents.
        done: The command, which has ended well.
    """

    options: list[str]
    out: Path
    done: subprocess.CompletedProcess[str]

    @property
    def video(self) -> bytes:
        """The file."""
        return (self.out / "0000" / "video.mp4").read_bytes()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny random-weight pipeline folder."""
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny").path


@pytest.fixture(scope="session")
def serial(model: Path, tmp_path_factory: pytest.TempPathFactory) -> SerialRun:
    """Return a run on one device, which others are compared with. Made once for all tests."""
    out = tmp_path_factory.mktemp("serial") / "out"
    options = tiny_options(model)
    done = predict(*options, "--output", out, "--keep_latents", "all", "--progress", "plain")
    assert done.returncode == 0, done.stderr
    return SerialRun(options, out, done)


@pytest.fixture
def config(model: Path, tmp_path: Path) -> Path:
    """Return a config file for it: 3 blocks, 3 steps."""
    file = tmp_path / "tiny.yaml"
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
