"""SLURM for real, two node daemons on two hosts: one run per step, and the bytes of one device.

Skipped where ``slurm-wlm`` and ``munge`` are not installed, or without the right to make hosts.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.command import frame_count, tiny_options
from tests.cli.conftest import SerialRun
from tests.cli.slurm import Cluster, slurm_cluster

SCRIPTS: Final = Path(__file__).parents[2] / "examples" / "slurm"
ON_PATH: Final = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
"""Where a job finds ``longtake``."""
STAGES: Final = [
    *("--trainer.strategy", "DualParal", "--trainer.strategy.guidance", "together"),
    *("--trainer.strategy.decode_devices", "0", "--trainer.strategy.split"),
]
"""Layers in stages, which make the bytes of one device; what is chosen by itself may not.

One task on each node where its neighbour would show nothing: each takes seconds to import PyTorch.
"""


def step(tasks: int) -> list[str]:
    """Return the options of a step of so many tasks on each node."""
    return ["--nodes", "2", "--ntasks-per-node", str(tasks)]


def ranks(tasks: int) -> list[str]:
    """Return the options of a run of so many ranks on each node."""
    split = {1: "[2,2]", 2: "[1,1,1,1]"}[tasks]
    return [*STAGES, split, "--trainer.devices", str(tasks), "--trainer.num_nodes", "2"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Yield a cluster of two nodes."""
    with slurm_cluster() as made:
        yield made


@pytest.mark.parametrize(
    ("within", "tasks"), [([], 2), (["salloc", *step(1)], 1)], ids=["srun", "salloc"]
)
def test_the_tasks_of_a_step_on_two_nodes_make_one_run(
    within: list[str], tasks: int, cluster: Cluster, model: Path, tmp_path: Path, serial: SerialRun
) -> None:
    out = tmp_path / "out"
    command = ["longtake", "predict", *tiny_options(model), *ranks(tasks), "--output", str(out)]
    done = cluster.run(*within, "srun", *step(tasks), *command, variables=ON_PATH)
    assert done.returncode == 0, done.stderr + cluster.logs()
    assert (out / "0000" / "video.mp4").read_bytes() == serial.video


def submit(cluster: Cluster, script: str, place: Path, *options: str) -> tuple[str, Path]:
    """Submit one of the ready scripts, for CPUs; return the job's number and its output."""
    done = cluster.run(
        *("sbatch", "--parsable", "--chdir", str(place), "--gpus-per-node", "0"),
        *("--ntasks-per-node", "1", str(SCRIPTS / script), *STAGES, "[2,2]", *options),
        variables=ON_PATH,
    )
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    return job, place / f"slurm-{job}.out"


def state(cluster: Cluster, job: str) -> str:
    """Return what a job is at: a word of SLURM's, or nothing once it has ended."""
    return cluster.run("squeue", "--noheader", "--jobs", job, "--format", "%T").stdout.strip()


@pytest.mark.parametrize(
    ("script", "options"),
    [("one_node.sh", ["--trainer.devices", "2"]), ("two_nodes.sh", [])],
)
def test_the_ready_scripts_make_the_bytes_of_one_device(
    script: str,
    options: list[str],
    cluster: Cluster,
    model: Path,
    tmp_path: Path,
    serial: SerialRun,
) -> None:
    job, said = submit(cluster, script, tmp_path, *tiny_options(model), *options)
    deadline = time.monotonic() + 280
    while state(cluster, job) and time.monotonic() < deadline:
        time.sleep(0.5)
    video = tmp_path / "out" / job / "0000" / "video.mp4"
    assert video.exists(), said.read_text() + cluster.logs()
    assert video.read_bytes() == serial.video


def test_a_job_whose_time_is_nearly_up_ends_well_and_is_queued_again(
    cluster: Cluster, model: Path, tmp_path: Path
) -> None:
    """SLURM sends SIGUSR1 to the step, as the script has asked for; here ``scancel`` does."""
    long = ["--data.num_frames", "1997", "--progress", "plain"]
    job, said = submit(cluster, "two_nodes.sh", tmp_path, *tiny_options(model), *long)
    deadline = time.monotonic() + 280
    while not (said.exists() and "blocks_done=4 " in said.read_text()):
        assert time.monotonic() < deadline, said.read_text() + cluster.logs()
        time.sleep(0.2)
    assert cluster.run("scancel", "--signal", "USR1", job).returncode == 0
    while state(cluster, job) != "PENDING":
        assert time.monotonic() < deadline, said.read_text() + cluster.logs()
        time.sleep(0.5)
    assert cluster.run("scancel", job).returncode == 0
    assert said.read_text().count("Exited with exit code 75") >= 1
    assert "Traceback" not in said.read_text()
    assert frame_count(tmp_path / "out" / job / "0000" / "video.mp4") > 0


def test_when_the_first_rank_refuses_the_step_ends(
    cluster: Cluster, model: Path, tmp_path: Path
) -> None:
    """Only the first rank looks at the folder; srun ends nobody by itself."""
    (tmp_path / "mine").touch()
    options = [*tiny_options(model), *ranks(1), "--output", str(tmp_path)]
    done = cluster.run("srun", *step(1), "longtake", "predict", *options, variables=ON_PATH)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("longtake: error: ") == 1
