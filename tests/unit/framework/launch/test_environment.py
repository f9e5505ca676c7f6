"""Who started a process, and what that says."""

from __future__ import annotations

import sys

import pytest

from longtake.comm.launchers import (
    Launcher,
    check_launch,
    first_host,
    is_first_here,
    launcher_of,
    tasks_per_node,
)
from longtake.errors import ConfigurationError
from longtake.framework.launch.environment import cluster_environment
from longtake.framework.launch.processes import check_command
from longtake.framework.launch.slurm import SlurmStep
from longtake.framework.main import ordered

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}
JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "video"}
STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "4",
    "SLURM_STEP_NODELIST": "gpu1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
SRUN = JOB | STEP
SHELL = JOB | STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}
"""A shell of ``srun --pty``, or the interactive step of ``salloc``."""
TWO_NODES = SRUN | {
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
MPICH = {"PMI_SIZE": "2", "PMI_RANK": "0"}


@pytest.mark.parametrize(
    ("environment", "launcher", "first"),
    [
        ({}, Launcher.LONGTAKE, True),
        ({"LOCAL_RANK": "2"}, Launcher.LONGTAKE, False),
        (TORCHRUN, Launcher.TORCHRUN, False),
        (SRUN, Launcher.SRUN, True),
        (SRUN | {"SLURM_LOCALID": "2"}, Launcher.SRUN, False),
        (JOB, Launcher.LONGTAKE, True),  # sbatch's script, a shell of salloc
        (SHELL, Launcher.LONGTAKE, True),
        (SHELL | {"LOCAL_RANK": "1"}, Launcher.LONGTAKE, False),  # started by longtake in it
        (SRUN | TORCHRUN, Launcher.TORCHRUN, False),
        (OPEN_MPI, Launcher.MPIRUN, False),
        (MPICH, Launcher.MPIRUN, True),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, Launcher.LONGTAKE, True),
        (SRUN | {"PMI_SIZE": "4", "PMI_RANK": "0"}, Launcher.SRUN, True),  # srun --mpi=pmi2
        (SHELL | {"PMI_SIZE": "1", "PMI_RANK": "0"}, Launcher.LONGTAKE, True),
    ],
)
def test_the_launcher_is_known_by_its_variables(
    environment: dict[str, str], launcher: Launcher, first: bool
) -> None:
    for name in ("interactive", "bash", "zsh", "fish", "tmux", "jupyter", "longtake", ""):
        named = environment | ({"SLURM_JOB_NAME": name} if "SLURM_JOB_ID" in environment else {})
        assert launcher_of(named) is launcher
        assert is_first_here(named) is first


@pytest.mark.parametrize(("environment", "name"), [(TORCHRUN, "torchrun"), (SRUN, "srun")])
def test_another_number_of_processes_is_refused(environment: dict[str, str], name: str) -> None:
    check_launch(4, 1, environment)
    with pytest.raises(ConfigurationError, match=f"{name} started 4 processes, but .* is 8"):
        check_launch(8, 1, environment)
    check_launch(8, 1, JOB)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_in_a_step_of_one_task_the_ranks_are_started_here(devices: int) -> None:
    check_launch(devices, 1, SHELL)
    assert not cluster_environment(SHELL).creates_processes_externally


@pytest.mark.parametrize("rank", [0, 1])
def test_two_tasks_of_srun_in_an_allocation_are_one_run(rank: int) -> None:
    """The variables of a task in ``salloc``, whose job is called "interactive"."""
    task = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "interactive",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
    }
    check_launch(2, 1, task)
    found = cluster_environment(task)
    assert isinstance(found, SlurmStep)
    assert found.creates_processes_externally
    assert (found.world_size(), found.global_rank(), found.local_rank()) == (2, rank, rank)
    assert (found.main_address, found.node_rank()) == ("127.0.0.1", 0)
    with pytest.raises(ConfigurationError, match="srun started 2 processes"):
        check_launch(1, 1, task)


def test_tasks_of_two_machines_meet_at_the_first_one() -> None:
    check_launch(2, 2, TWO_NODES)
    found = SlurmStep(TWO_NODES)
    assert (found.main_address, found.main_port) == ("gpu07", 15_049)
    assert (found.global_rank(), found.local_rank(), found.node_rank()) == (3, 1, 1)
    named = SlurmStep(TWO_NODES | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    assert (named.main_address, named.main_port) == ("10.0.0.1", 29500)
    other = SlurmStep(TWO_NODES | {"SLURM_STEP_ID": "1"})
    assert other.main_port != found.main_port  # two steps of a job at once


def test_tasks_that_lie_otherwise_on_the_machines_are_refused() -> None:
    uneven = TWO_NODES | {"SLURM_STEP_TASKS_PER_NODE": "3,1"}
    with pytest.raises(ConfigurationError, match=r"srun placed 3,1 .*--ntasks-per-node 2"):
        check_launch(2, 2, uneven)
    with pytest.raises(ConfigurationError, match="srun placed 2"):
        check_launch(4, 1, TWO_NODES)


@pytest.mark.parametrize("environment", [OPEN_MPI, MPICH])
def test_mpirun_is_refused_in_a_sentence(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"mpirun started 2 .* 2 by itself"):
        check_launch(2, 1, environment)


@pytest.mark.parametrize("text", ["two", "", "-1", "1e9", "0x1", "1" * 30, "٢", " "])
@pytest.mark.parametrize(
    ("environment", "name"),
    [
        (TORCHRUN, "WORLD_SIZE"),
        (TORCHRUN, "LOCAL_RANK"),
        (SRUN, "SLURM_STEP_NUM_TASKS"),
        (SRUN, "SLURM_PROCID"),
        (SRUN, "SLURM_LOCALID"),
        (SRUN, "SLURM_NODEID"),
        (MPICH, "PMI_SIZE"),
        ({}, "LOCAL_RANK"),
        ({}, "NODE_RANK"),
        ({}, "GROUP_RANK"),
        ({}, "MASTER_PORT"),
        (TORCHRUN, "RANK"),
    ],
)
def test_variables_that_are_no_numbers_are_named(
    environment: dict[str, str], name: str, text: str
) -> None:
    is_first_here(environment | {name: text})  # whatever it says, it says something
    with pytest.raises(ConfigurationError, match=f"variable {name} is {text.strip()!r}"):
        check_launch(4, 1, environment | {name: text})


@pytest.mark.parametrize("name", ["NODE_RANK", "GROUP_RANK"])
def test_a_machine_that_is_none_of_the_run_is_refused(name: str) -> None:
    check_launch(2, 2, {name: "1"})
    with pytest.raises(ConfigurationError, match=rf"{name} is 1, but trainer\.num_nodes is 1"):
        check_launch(2, 1, {name: "1"})


def test_a_local_rank_that_is_no_device_is_refused() -> None:
    check_launch(2, 1, {"LOCAL_RANK": "1"})
    with pytest.raises(ConfigurationError, match=r"LOCAL_RANK is 2, but trainer\.devices is 2"):
        check_launch(2, 1, {"LOCAL_RANK": "2"})


@pytest.mark.parametrize(
    ("text", "tasks"), [("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("1,2(x2)", [1, 2, 2])]
)
def test_tasks_per_machine_are_read(text: str, tasks: list[int]) -> None:
    assert tasks_per_node(text) == tasks


@pytest.mark.parametrize("text", ["", "x", "2(x", "2(x99999999999)", "1,,2", "-1"])
def test_tasks_per_machine_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="SLURM_STEP_TASKS_PER_NODE"):
        tasks_per_node(text)


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        *(("gpu1", "gpu1"), ("a,b", "a"), ("gpu[07-09,12],cpu1", "gpu07"), ("n[3]", "n3")),
        *(("n[1-2]-ib,m", "n1-ib"), ("a,n[1-2]", "a"), ("host.domain.org", "host.domain.org")),
    ],
)
def test_the_first_machine_of_a_list(listed: str, first: str) -> None:
    assert first_host(listed) == first


def test_a_notebook_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    check_command(["run.py"])
    for command in ("/x/ipykernel_launcher.py", "-c", ""):
        with pytest.raises(ConfigurationError, match="notebook"):
            check_command([command])
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.raises(ConfigurationError, match="interactive"):
        check_command(["run.py"])


def test_a_config_may_stand_before_the_command() -> None:
    moved = ["predict", "--config", "a.yaml", "--output", "x"]
    assert ordered(["--config", "a.yaml", "predict", "--output", "x"]) == moved
    assert ordered(["--config=a", "-c", "b", "plan"]) == ["plan", "--config=a", "-c", "b"]
    for words in (moved, ["--version"], [], ["--config"], ["x", "predict"], ["--x", "predict"]):
        assert ordered(words) == words
