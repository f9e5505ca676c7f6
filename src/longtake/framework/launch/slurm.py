"""SLURM step: its tasks as ranks, by the variables of the step itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from typing_extensions import override

from longtake.comm.launchers import STEP_TASKS, first_host, number, tasks_per_node
from longtake.errors import ConfigurationError

_FIRST_PORT: Final = 15_000
_PORTS: Final = 10_000


@final
class SlurmStep(ClusterEnvironment):
    """Where Lightning finds the ranks of a step that ``srun`` has started.

    Lightning's own reads the job's variables, which in ``salloc`` are not those of the step.

    Args:
        environment: The process's environment variables.

    Raises:
        ConfigurationError: A variable is missing, or holds no number.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._tasks = number(environment, STEP_TASKS)
        self._rank = number(environment, "SLURM_PROCID")
        self._local_rank = number(environment, "SLURM_LOCALID")
        self._node = number(environment, "SLURM_NODEID")
        placed = environment.get("SLURM_STEP_TASKS_PER_NODE")
        self.nodes = number(environment, "SLURM_STEP_NUM_NODES", 1)
        """Machines of the step."""
        if placed is not None:
            self.nodes = len(tasks_per_node(placed))

    @property
    @override
    def creates_processes_externally(self) -> bool:
        return True

    @property
    @override
    def main_address(self) -> str:
        """``MASTER_ADDR``, or this machine if all tasks are here, or the first one of the step."""
        if given := self._environment.get("MASTER_ADDR"):
            return given
        if self.nodes == 1:
            return "127.0.0.1"
        for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"):
            if listed := self._environment.get(name):
                return first_host(listed)
        raise ConfigurationError(
            "srun does not say on which machines the step runs (SLURM_STEP_NODELIST), so the ranks "
            "find no place to meet; set MASTER_ADDR to the first one's name."
        )

    @property
    @override
    def main_port(self) -> int:
        """``MASTER_PORT``, or one by the numbers of job and step."""
        if "MASTER_PORT" in self._environment:
            return number(self._environment, "MASTER_PORT")
        job = number(self._environment, "SLURM_JOB_ID", 0)
        step = self._environment.get("SLURM_STEP_ID", "0")
        return _FIRST_PORT + (job * 7 + (int(step[:9]) if step.isdecimal() else 0)) % _PORTS

    @staticmethod
    @override
    def detect() -> bool:
        """Not asked: ``longtake.comm.launchers`` knows."""
        return False

    @override
    def world_size(self) -> int:
        return self._tasks

    @override
    def set_world_size(self, size: int) -> None:
        """Do nothing: srun has set it."""

    @override
    def global_rank(self) -> int:
        return self._rank

    @override
    def set_global_rank(self, rank: int) -> None:
        """Take the rank that Lightning counts by machine and place there."""
        self._rank = rank

    @override
    def local_rank(self) -> int:
        return self._local_rank

    @override
    def node_rank(self) -> int:
        return self._node

    @override
    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Do nothing: ``check_launch`` has."""
