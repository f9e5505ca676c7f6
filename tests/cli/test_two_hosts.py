"""Two hosts, as two network namespaces of this machine: the bytes of one device.

Skipped without the right to make namespaces (root, or CAP_NET_ADMIN and CAP_SYS_ADMIN).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import ENVIRONMENT, TORCHRUN, tiny_options
from tests.cli.conftest import SerialRun

RANKS = 2
"""On each host."""
STAGES = [
    *("--trainer.strategy", "DualParal", "--trainer.strategy.guidance", "together"),
    *("--trainer.strategy.split", "[1,1,1,1]", "--trainer.strategy.decode_devices", "0"),
]
"""Layers in stages, which make the bytes of one device; what is chosen by itself may not."""


def ip(*words: str) -> bool:
    """Run ``ip``, and return whether it has done so."""
    try:
        done = subprocess.run(["ip", *words], capture_output=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@pytest.fixture
def hosts() -> Iterator[list[tuple[str, str, str]]]:
    """Yield two namespaces with a cable between them: names, interfaces, addresses."""
    mark, net = os.getpid() % 10_000, os.getpid() % 250
    made = [(f"lt{mark}{end}", f"lt{mark}{end}", f"10.213.{net}.{end}") for end in (1, 2)]
    (first, cable, _), (second, other, _) = made
    try:
        able = (
            ip("netns", "add", first)
            and ip("netns", "add", second)
            and ip("link", "add", cable, "netns", first, "type", "veth", "peer", "name", other)
            and ip("link", "set", other, "netns", second)
            and all(
                ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
                and ip("-n", name, "link", "set", interface, "up")
                and ip("-n", name, "link", "set", "lo", "up")
                for name, interface, address in made
            )
        )
        if not able:
            pytest.skip("this process may not make network namespaces")
        yield made
    finally:
        for name, _, _ in made:
            ip("netns", "del", name)


def test_two_hosts_make_the_bytes_that_one_device_makes(
    hosts: list[tuple[str, str, str]], model: Path, tmp_path: Path, serial: SerialRun
) -> None:
    out, address = tmp_path / "out", hosts[0][2]
    processes = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name, *TORCHRUN, "--nnodes", "2"),
                *("--nproc-per-node", str(RANKS), "--node-rank", str(rank)),
                *("--master-addr", address, "--master-port", "29500", "-m", "longtake", "predict"),
                *tiny_options(model),
                *("--trainer.devices", str(RANKS), "--trainer.num_nodes", "2"),
                *STAGES,
                *("--output", str(out)),
            ],
            env=ENVIRONMENT | {"GLOO_SOCKET_IFNAME": interface},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, (name, interface, _) in enumerate(hosts)
    ]
    said = [process.communicate(timeout=280)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert (out / "0000" / "video.mp4").read_bytes() == serial.video
