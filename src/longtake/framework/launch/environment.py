"""Cluster environment: where Lightning finds the ranks of a run, by who has started them."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from longtake.comm.launchers import Launcher, launcher_of
from longtake.framework.launch.slurm import SlurmStep


def cluster_environment(environment: Mapping[str, str]) -> ClusterEnvironment:
    """Return where Lightning finds ranks and the address at which they meet.

    Args:
        environment: The process's environment variables, as ``check_launch`` has passed them.

    Raises:
        ConfigurationError: A variable of the launcher is missing, or holds no number.
    """
    match launcher_of(environment):
        case Launcher.TORCHRUN:
            return TorchElasticEnvironment()
        case Launcher.SRUN:
            return SlurmStep(environment)
        case Launcher.LONGTAKE | Launcher.MPIRUN:  # the latter is refused
            return LightningEnvironment()
