"""Who started a process, and what that says."""

from __future__ import annotations

import pytest

from longtake.comm.launchers import Launcher, check_launch, is_first_here, launcher_of
from longtake.errors import ConfigurationError
from longtake.framework.launch.environment import cluster_environment

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}
BATCH_SCRIPT = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "video"}
SRUN = BATCH_SCRIPT | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "launcher", "first"),
    [
        ({}, Launcher.LONGTAKE, True),
        ({"LOCAL_RANK": "2"}, Launcher.LONGTAKE, False),
        (TORCHRUN, Launcher.TORCHRUN, False),
        (SRUN, Launcher.SRUN, True),
        (SRUN | {"SLURM_LOCALID": "2"}, Launcher.SRUN, False),
        (BATCH_SCRIPT, Launcher.LONGTAKE, True),
        (SRUN | {"SLURM_JOB_NAME": "bash"}, Launcher.LONGTAKE, True),
        (SRUN | TORCHRUN, Launcher.TORCHRUN, False),
    ],
)
def test_the_launcher_is_known_by_its_variables(
    environment: dict[str, str], launcher: Launcher, first: bool
) -> None:
    assert launcher_of(environment) is launcher
    assert is_first_here(environment) is first


@pytest.mark.parametrize(("environment", "name"), [(TORCHRUN, "torchrun"), (SRUN, "srun")])
def test_another_number_of_processes_is_refused(environment: dict[str, str], name: str) -> None:
    check_launch(4, environment)
    with pytest.raises(ConfigurationError, match=f"{name} started 4 processes, but .* is 8"):
        check_launch(8, environment)
    check_launch(8, BATCH_SCRIPT)


def test_srun_without_tasks_per_node_is_told_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in SRUN.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigurationError, match="give --ntasks-per-node"):
        cluster_environment(SRUN)
