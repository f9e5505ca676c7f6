"""SLURM cluster for tests: a real controller and a node daemon on each of two hosts.

Needs Debian's ``slurm-wlm`` and ``munge``, and the rights of ``two_hosts``. By hand::

    python -m tests.cli.slurm srun --nodes 2 --ntasks-per-node 2 hostname
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.cli.command import ENVIRONMENT
from tests.cli.hosts import Host, two_hosts

PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "salloc", "scancel")
_PATIENCE: Final = 60
"""Seconds in which the daemons must be ready."""
_SETTINGS: Final = """\
ClusterName=longtake
SlurmctldHost={machine}({first.address})
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={place}/munge.socket
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
LaunchParameters=use_interactive_step
NodeName={first.name} NodeAddr={first.address} CPUs=4
NodeName={second.name} NodeAddr={second.address} CPUs=4
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Args:
        hosts: Its nodes; the controller is on the first one.
        place: Of its files.
    """

    hosts: list[Host]
    place: Path

    def run(
        self, *words: str, variables: Mapping[str, str] | None = None, patience: int = 280
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the first host, as a user of the cluster does, to its end."""
        return subprocess.run(
            self.hosts[0].command(*words),
            env=self.environment | dict(variables or {}),
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the user."""
        return ENVIRONMENT | {"SLURM_CONF": str(self.place / "slurm.conf")}

    def logs(self) -> str:
        """Return what the daemons have said last."""
        files = sorted(self.place.glob("*.log"))
        return "\n".join(f"{file.name}: {file.read_text()[-2000:]}" for file in files)


@contextmanager
def slurm_cluster() -> Iterator[Cluster]:
    """Yield a cluster of two nodes; the test is skipped where it cannot be."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no SLURM here: {', '.join(missing)} (Debian: slurm-wlm, munge)")
    if os.geteuid():
        pytest.skip("SLURM's node daemons want root")
    with ExitStack() as held:
        # A short name: that of a socket has 108 characters at most.
        place = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="slurm")))
        place.chmod(0o755)
        first, second = hosts = held.enter_context(two_hosts())
        for name in ("state", first.name, second.name):
            (place / name).mkdir()
        machine = os.uname().nodename
        (place / "slurm.conf").write_text(
            _SETTINGS.format(machine=machine, first=first, second=second, place=place)
        )
        (place / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # not systemd's, by D-Bus
        cluster = Cluster(hosts, place)
        for daemon in (
            _munged(place),
            first.command("slurmctld", "-D", "-c"),
            *(host.command("slurmd", "-D", "-N", host.name) for host in hosts),
        ):
            held.enter_context(_running(daemon, cluster))
        _wait_for_nodes(cluster)
        yield cluster


def _munged(place: Path) -> list[str]:
    key = place / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    files = {"key": key, "pid": place / "munge.pid", "log": place / "munge.log"}
    options = [f"--{name}-file={file}" for name, file in files.items()]
    own = [f"--seed-file={place}/munge.seed", f"--socket={place}/munge.socket"]
    return ["munged", "--foreground", "--force", *options, *own]


@contextmanager
def _running(daemon: list[str], cluster: Cluster) -> Iterator[None]:
    null = subprocess.DEVNULL
    with subprocess.Popen(daemon, env=cluster.environment, stdout=null, stderr=null) as process:
        try:
            yield
        finally:
            process.terminate()


def _wait_for_nodes(cluster: Cluster) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        nodes = cluster.run("sinfo", "--noheader", "--Node", "--format", "%t").stdout.split()
        if nodes == ["idle"] * len(cluster.hosts):
            return
        time.sleep(0.3)
    raise RuntimeError(f"the cluster did not come up\n{cluster.logs()}")


if __name__ == "__main__":
    with slurm_cluster() as made:
        command = made.hosts[0].command(*sys.argv[1:])
        sys.exit(subprocess.run(command, env=made.environment, check=False).returncode)
