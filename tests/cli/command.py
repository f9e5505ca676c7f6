"""Runs the real command in a subprocess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
from safetensors.torch import load_file
from torch import Tensor

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
COMMAND = [sys.executable, "-m", "longtake"]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": os.environ.get("LONGTAKE_TEST_THREADS", "1"),
    "PYTHONWARNINGS": "error::UserWarning:longtake",
}


def predict(
    *arguments: str | Path,
    modules: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``longtake predict`` to its end.

    Args:
        arguments: Of the command.
        modules: A folder with modules that it may import.
        variables: Further environment variables.
    """
    return run([*COMMAND, "predict", *map(str, arguments)], modules, variables)


def run(
    command: list[str], modules: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; see ``predict``."""
    environment = ENVIRONMENT | dict(variables or {})
    if modules is not None:
        environment["PYTHONPATH"] = str(modules)
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=240, check=False
    )


def frame_count(video: Path) -> int:
    """Count the video frames of a file by decoding it."""
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def report_of(folder: Path) -> dict[str, Any]:
    """Read the run's report."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def latents_of(folder: Path, request: int = 0) -> list[Tensor]:
    """Read a request's latents, block by block."""
    files = sorted((folder / f"{request:04d}" / "latents").glob("*.safetensors"))
    return [load_file(file)["latents"] for file in files]
