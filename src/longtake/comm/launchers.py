"""Launchers: who has started this process, read from its environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from longtake.errors import ConfigurationError

_SHELLS: Final = ("bash", "interactive")
"""Names of SLURM jobs that are a shell, in which a user types commands."""


class Launcher(StrEnum):
    """What has started the processes of a run."""

    TORCHRUN = "torchrun"
    SRUN = "srun"
    LONGTAKE = "longtake"
    """longtake itself: the first process on each machine starts the others there."""


_PROCESSES: Final = {
    Launcher.TORCHRUN: "WORLD_SIZE",
    Launcher.SRUN: "SLURM_STEP_NUM_TASKS",
}
_LOCAL_RANK: Final = {
    Launcher.TORCHRUN: "LOCAL_RANK",
    Launcher.SRUN: "SLURM_LOCALID",
    Launcher.LONGTAKE: "LOCAL_RANK",
}


def launcher_of(environment: Mapping[str, str]) -> Launcher:
    """Return who has started this process.

    Within a SLURM job only ``srun`` starts a process per rank: in the job's batch script, or in a
    shell that ``srun`` has opened, longtake starts them itself.

    Args:
        environment: The process's environment variables.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        return Launcher.TORCHRUN
    if "SLURM_STEP_ID" in environment and environment.get("SLURM_JOB_NAME") not in _SHELLS:
        return Launcher.SRUN
    return Launcher.LONGTAKE


def is_first_here(environment: Mapping[str, str]) -> bool:
    """Return whether this is the first of the run's processes on this machine.

    Before the ranks have met, it alone reports mistakes: all of them find the same ones.
    """
    return int(environment.get(_LOCAL_RANK[launcher_of(environment)], "0")) == 0


def check_launch(ranks: int, environment: Mapping[str, str]) -> None:
    """Refuse a launcher that started another number of processes than the run asks for.

    Args:
        ranks: Devices times nodes.
        environment: The process's environment variables.

    Raises:
        ConfigurationError: Names both numbers and the launcher.
    """
    launcher = launcher_of(environment)
    started = environment.get(_PROCESSES.get(launcher, ""), str(ranks))
    if started != str(ranks):
        raise ConfigurationError(
            f"{launcher} started {started} processes, but trainer.devices times "
            f"trainer.num_nodes is {ranks}; make them equal."
        )
