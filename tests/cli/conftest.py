from __future__ import annotations

from pathlib import Path

import pytest

from longtake.testing.tiny.base import tiny_wan_folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny random-weight pipeline folder."""
    return tiny_wan_folder(tmp_path_factory.mktemp("model") / "tiny").path


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
