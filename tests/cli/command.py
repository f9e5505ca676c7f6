"""Runs the real command in a subprocess; what ends before it makes anything, also in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import pytest
from safetensors.torch import load_file
from torch import Tensor

from longtake.framework.main import main

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
COMMAND = [sys.executable, "-m", "longtake"]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": os.environ.get("LONGTAKE_TEST_THREADS", "1"),
    "PYTHONWARNINGS": "error::UserWarning:longtake",
}


def tiny_options(model: Path) -> list[str]:
    """Return the options of a short run of a tiny model: 3 blocks, 3 steps."""
    return [
        *("--trainer.accelerator", "cpu", "--model.pipeline", str(model), "--model.steps", "3"),
        *("--model.scheduler", "FifoQueue", "--model.scheduler.block_frames", "3"),
        *("--model.scheduler.context_frames", "2", "--model.dtype", "float32"),
        *("--data.prompts", "red shape moves left", "--data.num_frames", "37"),
        *("--data.height", "32", "--data.width", "48"),
    ]


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
        own = [environment["PYTHONPATH"]] if "PYTHONPATH" in environment else []
        environment["PYTHONPATH"] = os.pathsep.join([str(modules), *own])
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=240, check=False
    )


def run_here(
    capsys: pytest.CaptureFixture[str], *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run ``longtake`` in this process: plans, helps and refusals, at which no other one starts."""
    status = 0
    try:
        main([*map(str, arguments)])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    said = capsys.readouterr()
    return subprocess.CompletedProcess([], status, said.out, said.err)


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
