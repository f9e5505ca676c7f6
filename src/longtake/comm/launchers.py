"""Launchers: who has started this process, read from its environment variables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from longtake.errors import ConfigurationError


class Launcher(StrEnum):
    """What has started the processes of a run."""

    TORCHRUN = "torchrun"
    SRUN = "srun"
    """A step of several tasks; in one of a single task longtake starts the ranks itself."""
    MPIRUN = "mpirun"
    """Which says nowhere where ranks can meet, so that it is refused."""
    LONGTAKE = "longtake"
    """longtake itself: the first process on each machine starts the others there."""


STEP_TASKS: Final = "SLURM_STEP_NUM_TASKS"
"""Of the step that this process is in; a job's own ``SLURM_NTASKS`` says nothing about steps."""
_MPI: Final = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
)
"""Number of processes and number of this one: of Open MPI, of MPICH and its kind."""
_RANK: Final = {
    Launcher.TORCHRUN: "LOCAL_RANK",
    Launcher.SRUN: "SLURM_LOCALID",
    Launcher.LONGTAKE: "LOCAL_RANK",
}
_REPEATED: Final = re.compile(r"(\d+)\(x(\d+)\)|(\d+)")
"""Tasks per machine as SLURM writes them: ``2(x3),1`` for 2, 2, 2, 1."""


def number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return a variable that holds a whole number, 0 or more.

    Args:
        environment: The process's environment variables.
        name: Of the variable.
        default: Where it is not set.

    Raises:
        ConfigurationError: It is not set and has no default, or holds something else.
    """
    text = environment.get(name, "" if default is None else str(default)).strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        said = repr(text) if name in environment else "not set"
        raise ConfigurationError(
            f"the environment variable {name} is {said}, but the processes of a run are told "
            f"apart by it: it must be a whole number; unset it where nothing has started several."
        )
    return int(text)


def launcher_of(environment: Mapping[str, str]) -> Launcher:
    """Return who has started this process.

    Within a SLURM job only the tasks of a step of several are ranks: in the job's batch script, in
    ``salloc`` and in a shell that ``srun --pty`` has opened longtake starts them itself, whatever
    the job is called.

    Args:
        environment: The process's environment variables.

    Raises:
        ConfigurationError: A variable that says so holds no number.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        return Launcher.TORCHRUN
    if "SLURM_STEP_ID" in environment and number(environment, STEP_TASKS, 1) > 1:
        return Launcher.SRUN
    if "SLURM_STEP_ID" not in environment and _mpi_processes(environment) > 1:
        return Launcher.MPIRUN  # in a step the variables may be those of srun --mpi
    return Launcher.LONGTAKE


def is_first_here(environment: Mapping[str, str]) -> bool:
    """Return whether this is the first of the run's processes on this machine.

    Before the ranks have met, it alone reports mistakes: all of them find the same ones. Where the
    variables make no sense every process reports.
    """
    try:
        launcher = launcher_of(environment)
        if launcher is Launcher.MPIRUN:
            return all(number(environment, rank, 0) == 0 for _, rank in _MPI)
        return number(environment, _RANK[launcher], 0) == 0
    except ConfigurationError:
        return True


def check_launch(devices: int, nodes: int, environment: Mapping[str, str]) -> None:
    """Refuse a launcher that started another number of processes than the run asks for.

    Args:
        devices: On each machine.
        nodes: Machines.
        environment: The process's environment variables.

    Raises:
        ConfigurationError: Names both numbers and the launcher, or a variable that is no number.
    """
    ranks = devices * nodes
    match launcher_of(environment):
        case Launcher.TORCHRUN:
            _check_processes("torchrun", number(environment, "WORLD_SIZE"), ranks)
            for name in ("RANK", "LOCAL_RANK"):
                number(environment, name)
            for name in ("GROUP_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
                number(environment, name, 0)
        case Launcher.SRUN:
            _check_step(devices, nodes, environment)
        case Launcher.MPIRUN:
            raise ConfigurationError(
                f"mpirun started {_mpi_processes(environment)} processes, each of which would make "
                f"the whole run: longtake does not take its ranks from MPI. Start it alone: it "
                f"starts {ranks} by itself; or with torchrun or srun, on several machines."
            )
        case Launcher.LONGTAKE:
            local = number(environment, "LOCAL_RANK", 0)
            if local >= devices:
                raise ConfigurationError(
                    f"the environment variable LOCAL_RANK is {local}, but trainer.devices is "
                    f"{devices}; unset it where nothing has started several processes."
                )
            number(environment, "MASTER_PORT", 0)
            name = "NODE_RANK" if "NODE_RANK" in environment else "GROUP_RANK"
            if (node := number(environment, name, 0)) >= nodes:
                raise ConfigurationError(
                    f"the environment variable {name} is {node}, but trainer.num_nodes is {nodes}: "
                    f"machines count from 0; unset it where the run is on this one alone."
                )


def tasks_per_node(text: str) -> list[int]:
    """Return how many tasks each machine of a step has.

    Args:
        text: As SLURM writes it: ``2(x3),1``.

    Raises:
        ConfigurationError: It is nothing of the kind.
    """
    found: list[int] = []
    for part in text.split(","):
        read = _REPEATED.fullmatch(part.strip())
        if read is None or len(part) > 20 or int(read[2] or 1) > 10**6:
            raise ConfigurationError(
                f"the environment variable SLURM_STEP_TASKS_PER_NODE is {text!r}, which says no "
                f"numbers of tasks, such as 2(x3)."
            )
        found += [int(read[1])] * int(read[2]) if read[1] else [int(read[3])]
    return found


def _check_step(devices: int, nodes: int, environment: Mapping[str, str]) -> None:
    """Refuse a step of ``srun`` whose tasks are not the run's ranks."""
    _check_processes("srun", number(environment, STEP_TASKS), devices * nodes)
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
        number(environment, name)
    placed = environment.get("SLURM_STEP_TASKS_PER_NODE")
    if placed is not None and tasks_per_node(placed) != [devices] * nodes:
        raise ConfigurationError(
            f"srun placed {placed} tasks on the machines, but trainer.devices is {devices} on each "
            f"of {nodes}; give srun, or the salloc or sbatch that it is in, --nodes {nodes} "
            f"--ntasks-per-node {devices}."
        )


def _check_processes(launcher: str, started: int, ranks: int) -> None:
    if started != ranks:
        raise ConfigurationError(
            f"{launcher} started {started} processes, but trainer.devices times "
            f"trainer.num_nodes is {ranks}; make them equal."
        )


def _mpi_processes(environment: Mapping[str, str]) -> int:
    return max(number(environment, size, 1) for size, _ in _MPI)


def first_host(nodes: str) -> str:
    """Return the first machine of a list as SLURM writes it: ``gpu[07-09,12],cpu1`` is ``gpu07``.

    Args:
        nodes: The list.
    """
    begin, bracket, rest = nodes.partition("[")
    if not bracket or "," in begin:
        return begin.partition(",")[0]
    inside, _, after = rest.partition("]")
    first: Sequence[str] = re.split(r"[-,]", inside)
    return begin + first[0] + after.partition(",")[0]
