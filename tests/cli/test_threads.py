"""The real command's threads: how they wait, how many each rank has, and whose word counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import COMMAND

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY", "OMP_NUM_THREADS")
UNSET = {name: value for name, value in os.environ.items() if name not in CHOICES}
TELLS = """
import os
from pathlib import Path

import torch

from longtake.framework.callbacks import LongtakeCallback


class Tells(LongtakeCallback):
    def on_predict_start(self, trainer, module):
        policy = os.environ.get("OMP_WAIT_POLICY")
        said = f"{policy} {torch.get_num_threads()}"
        Path(os.environ["SAID"], str(trainer.global_rank)).write_text(said)
"""


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=240, check=False
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms have other OpenMP runtimes")
@pytest.mark.parametrize(
    ("users", "heard"),
    [
        ({}, "GOMP_SPINCOUNT = '0'"),
        ({"GOMP_SPINCOUNT": "5000"}, "GOMP_SPINCOUNT = '5000'"),
        ({"OMP_WAIT_POLICY": "active"}, "OMP_WAIT_POLICY = 'ACTIVE'"),
    ],
    ids=["nothing", "spins", "policy"],
)
def test_openmp_hears_what_the_user_says_and_else_that_threads_sleep(
    users: dict[str, str], heard: str
) -> None:
    # In the command's order: the libraries that come with PyTorch look when they are loaded.
    started = [sys.executable, "-c", "import longtake.__main__, torch"]
    done = _run(started, UNSET | users | {"OMP_DISPLAY_ENV": "verbose"})
    assert done.returncode == 0, done.stderr
    assert heard in done.stderr


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("count", [None, 1], ids=["PyTorch's count", "the user's count"])
def test_every_rank_has_the_threads_of_one_device(
    config: Path, tmp_path: Path, devices: int, count: int | None
) -> None:
    environment = UNSET if count is None else UNSET | {"OMP_NUM_THREADS": str(count)}
    (tmp_path / "tells.py").write_text(TELLS)
    said = tmp_path / "said"
    said.mkdir()
    done = _run(
        [*COMMAND, "predict", "--config", str(config), "--output", str(tmp_path / "out"),
         "--trainer.accelerator", "cpu", "--trainer.devices", str(devices),
         "--trainer.callbacks", "tells.Tells", "--data.num_frames", "13", "--progress", "none"],
        environment | {"PYTHONPATH": str(tmp_path), "SAID": str(said)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone = _run(
        [sys.executable, "-c", "import torch; print(torch.get_num_threads())"], environment
    )
    expected = f"PASSIVE {alone.stdout.strip()}"
    assert count is None or expected == f"PASSIVE {count}"
    assert {file.name: file.read_text() for file in said.iterdir()} == {
        str(rank): expected for rank in range(devices)
    }
