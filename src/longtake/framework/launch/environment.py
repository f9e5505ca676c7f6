"""Cluster environment: where Lightning finds the ranks of a run, by who has started them."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from longtake.comm.launchers import Launcher, launcher_of
from longtake.errors import ConfigurationError


def cluster_environment(environment: Mapping[str, str]) -> ClusterEnvironment:
    """Return where Lightning finds ranks and the address at which they meet.

    Raises:
        ConfigurationError: ``srun`` does not say how many processes each machine has.
    """
    match launcher_of(environment):
        case Launcher.TORCHRUN:
            return TorchElasticEnvironment()
        case Launcher.SRUN:
            try:
                # A requeued job would begin anew: there is no training to save.
                return SLURMEnvironment(auto_requeue=False)
            except RuntimeError as error:
                raise ConfigurationError(
                    f"srun started {environment.get('SLURM_NTASKS')} processes with --ntasks, "
                    f"which does not say how many are on each machine; give --ntasks-per-node, "
                    f"equal to trainer.devices."
                ) from error
        case Launcher.LONGTAKE:
            return LightningEnvironment()
