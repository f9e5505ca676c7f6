"""Hosts for tests: two network namespaces of this machine with a cable between them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.cli.command import ENVIRONMENT

_FILES: Final = Path("/etc/netns")
"""Where ``ip netns exec`` takes the files from that stand for those of ``/etc``."""

_QUIET: Final = "net.ipv6.conf.all.disable_ipv6=1"
"""Else the kernel itself would ask the cable for routers."""


@dataclass(frozen=True)
class Host:
    """A namespace.

    Args:
        name: Its, its interface's and the machine's.
        address: Its, on the cable.
    """

    name: str
    address: str

    def command(self, *words: str) -> list[str]:
        """Return a command that is run on it."""
        return ["ip", "netns", "exec", self.name, *words]


def ip(*words: str) -> bool:
    """Run ``ip``, and return whether it has done so."""
    try:
        done = subprocess.run(["ip", *words], capture_output=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@contextmanager
def two_hosts() -> Iterator[list[Host]]:
    """Yield two hosts; each resolves its own name to its loopback, as Debian does.

    The test is skipped without the right to make namespaces (root, or ``CAP_NET_ADMIN`` and
    ``CAP_SYS_ADMIN``).
    """
    mark, net = os.getpid() % 10_000, os.getpid() % 250
    first, second = made = [Host(f"lt{mark}{end}", f"10.213.{net}.{end}") for end in (1, 2)]
    cable = ("link", "add", first.name, "netns", first.name, "type", "veth")
    try:
        able = (
            ip("netns", "add", first.name)
            and ip("netns", "add", second.name)
            and ip(*cable, "peer", "name", second.name)
            and ip("link", "set", second.name, "netns", second.name)
            and all(
                ip("netns", "exec", host.name, "sysctl", "-qw", _QUIET)
                and ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.name)
                and ip("-n", host.name, "link", "set", host.name, "up")
                and ip("-n", host.name, "link", "set", "lo", "up")
                for host in made
            )
        )
        if not able:
            pytest.skip("this process may not make network namespaces")
        for host, other in ((first, second), (second, first)):
            (_FILES / host.name).mkdir(parents=True)
            known = f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n{other.address} {other.name}\n"
            (_FILES / host.name / "hosts").write_text(known)
        yield made
    finally:
        for host in made:
            ip("netns", "del", host.name)
            with suppress(OSError):
                (_FILES / host.name / "hosts").unlink()
                (_FILES / host.name).rmdir()


@contextmanager
def started(
    commands: list[list[str]], variables: list[dict[str, str]], place: Path
) -> Iterator[list[tuple[subprocess.Popen[bytes], Path]]]:
    """Yield processes and the files that hold what they say; whatever is left of them is killed."""
    running = []
    try:
        for number, (command, own) in enumerate(zip(commands, variables, strict=True)):
            log = place / f"{number}.log"
            with log.open("wb") as file:
                process = subprocess.Popen(command, env=ENVIRONMENT | own, stderr=file)
            running.append((process, log))
        yield running
    finally:
        for process, _ in running:
            process.kill()
            process.wait()
