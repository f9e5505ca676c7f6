"""Runs the command: as a shell would, in a forked child that is quicker, or in this process."""

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
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from longtake.framework.main import main
from tests.cli.forked import Forked

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
COMMAND = [sys.executable, "-m", "longtake"]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": os.environ.get("LONGTAKE_TEST_THREADS", "1"),
    "PYTHONWARNINGS": "error::UserWarning:longtake",
}
PATIENCE = 240
"""Seconds after which a run hangs."""


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
    """Run ``longtake predict`` to its end in a forked child; see ``longtake``."""
    return longtake("predict", *arguments, modules=modules, variables=variables)


def longtake(
    *arguments: str | Path,
    modules: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``longtake`` to its end in a forked child, which has imported everything already.

    Args:
        arguments: Of the command.
        modules: A folder with modules that it may import.
        variables: Further environment variables, none of which libraries read when imported.
    """
    with start(*arguments, modules=modules, variables=variables) as running:
        out, err = running.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess([], running.wait(), out, err)


def start(
    *arguments: str | Path,
    modules: Path | None = None,
    variables: Mapping[str, str] | None = None,
    own_session: bool = False,
) -> Forked:
    """Start ``longtake`` in a forked child; see ``longtake`` and ``Forked``."""
    return Forked(list(map(str, arguments)), _environment(modules, variables), own_session)


def ranks(
    count: int, *arguments: str | Path, modules: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``longtake predict`` on several ranks, each a forked child, as torchrun starts them.

    Args:
        count: Of ranks, all on this machine; the arguments say it too.
        arguments: Of the command.
        modules: A folder with modules that they may import.

    Returns:
        The first status that is not 0, and what all ranks have said, one after the other.
    """
    # Kept here, as torchrun keeps it, and so on a port that nobody else can take meanwhile.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_RUN_ID": "tests",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    running = [
        start(
            *("predict", *arguments),
            modules=modules,
            variables=told | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]
    said = [process.communicate(timeout=PATIENCE) for process in running]
    statuses = [process.wait() for process in running]
    status = next((status for status in statuses if status), 0)
    return subprocess.CompletedProcess([], status, *map("".join, zip(*said, strict=True)))


def run(
    command: list[str], modules: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a process of its own, where starting it is the point.

    Args:
        command: All of its words.
        modules: A folder with modules that it may import.
        variables: Further environment variables.
    """
    environment = _environment(modules, variables)
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False
    )


def _environment(modules: Path | None, variables: Mapping[str, str] | None) -> dict[str, str]:
    environment = ENVIRONMENT | dict(variables or {})
    if modules is not None:
        own = [environment["PYTHONPATH"]] if "PYTHONPATH" in environment else []
        environment["PYTHONPATH"] = os.pathsep.join([str(modules), *own])
    return environment


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
