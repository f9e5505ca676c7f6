"""Two hosts, as two network namespaces of this machine: the bytes of one device, and an end.

Skipped without the right to make namespaces (root, or CAP_NET_ADMIN and CAP_SYS_ADMIN).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cli.command import COMMAND, TORCHRUN, predict, tiny_options
from tests.cli.conftest import SerialRun
from tests.cli.hosts import Host, ip, started, two_hosts

RANKS: Final = 2
"""On each host."""
STAGES: Final = [
    *("--trainer.strategy", "DualParal", "--trainer.strategy.guidance", "together"),
    *("--trainer.strategy.split", "[1,1,1,1]", "--trainer.strategy.decode_devices", "0"),
    *("--trainer.devices", str(RANKS), "--trainer.num_nodes", "2"),
]
"""Layers in stages, which make the bytes of one device; what is chosen by itself may not."""


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Yield two namespaces with a cable between them."""
    with two_hosts() as made:
        yield made


def test_two_hosts_make_the_bytes_that_one_device_makes(
    hosts: list[Host], model: Path, tmp_path: Path, serial: SerialRun
) -> None:
    """Nothing says by which interface they reach one another; the first one's name leads to it."""
    out = tmp_path / "out"
    commands = [
        host.command(
            *(*TORCHRUN, "--nnodes", "2", "--nproc-per-node", str(RANKS)),
            *("--node-rank", str(rank), "--master-addr", hosts[0].name, "--master-port", "29500"),
            *("-m", "longtake", "predict", *tiny_options(model), *STAGES, "--output", str(out)),
        )
        for rank, host in enumerate(hosts)
    ]
    with started(commands, [{}, {}], tmp_path) as running:
        statuses = [process.wait(timeout=280) for process, _ in running]
        assert statuses == [0, 0], [log.read_text() for _, log in running]
    assert (out / "0000" / "video.mp4").read_bytes() == serial.video


def test_each_host_makes_a_share_of_the_requests(
    hosts: list[Host], model: Path, tmp_path: Path
) -> None:
    """A replica of two stages on each: the bytes of one device, in the folders of the requests."""
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"prompt": f"a bird {frames}", "num_frames": frames} for frames in (37, 13, 25)]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    options = [*tiny_options(model), "--data.prompts", str(prompts)]
    alone, out = tmp_path / "alone", tmp_path / "out"
    done = predict(*options, "--output", alone)
    assert done.returncode == 0, done.stderr
    replicas = [
        *("--trainer.strategy", "DualParal", "--trainer.strategy.guidance", "together"),
        *("--trainer.strategy.split", "[2,2]", "--trainer.strategy.decode_devices", "0"),
        *("--trainer.strategy.data", "2"),
        *("--trainer.devices", str(RANKS), "--trainer.num_nodes", "2"),
    ]
    commands = [
        host.command(*COMMAND, "predict", *options, *replicas, "--output", str(out))
        for host in hosts
    ]
    meeting = {"MASTER_ADDR": hosts[0].address, "MASTER_PORT": "29502"}
    variables = [meeting | {"NODE_RANK": str(rank)} for rank in range(2)]
    with started(commands, variables, tmp_path) as running:
        statuses = [process.wait(timeout=280) for process, _ in running]
        assert statuses == [0, 0], [log.read_text() for _, log in running]
    for number in range(len(lines)):
        video = f"{number:04d}/video.mp4"
        assert (out / video).read_bytes() == (alone / video).read_bytes(), video


@pytest.mark.parametrize("refuser", [0, 1])
def test_when_a_host_refuses_a_run_that_was_started_by_hand_the_other_one_ends_too(
    refuser: int, hosts: list[Host], model: Path, tmp_path: Path
) -> None:
    options = [*tiny_options(model), *STAGES, "--output", str(tmp_path / "out")]
    commands = [
        host.command(*COMMAND, "predict", *options, *(["--data.height", "7"] * (refuser == rank)))
        for rank, host in enumerate(hosts)
    ]
    meeting = {"MASTER_ADDR": hosts[0].address, "MASTER_PORT": "29503"}
    variables = [meeting | {"NODE_RANK": str(rank)} for rank in range(2)]
    with started(commands, variables, tmp_path) as running:
        statuses = [process.wait(timeout=120) for process, _ in running]
        said = [log.read_text() for _, log in running]
    assert statuses == [2, 2], said
    assert "data.height is 7" in said[refuser]
    assert "error" not in said[1 - refuser]


def test_when_a_host_is_cut_off_all_ranks_end_and_say_which_are_gone(
    hosts: list[Host], model: Path, tmp_path: Path
) -> None:
    """No connection is closed by that: each side has to notice by itself."""
    commands = [
        host.command(
            *(*COMMAND, "predict", *tiny_options(model), *STAGES),
            *("--output", str(tmp_path / "out"), "--data.num_frames", "null"),
            *("--progress", "plain"),
        )
        for host in hosts
    ]
    meeting = {"MASTER_ADDR": hosts[0].address, "MASTER_PORT": "29501"}
    variables = [meeting | {"NODE_RANK": str(rank)} for rank in range(2)]
    with started(commands, variables, tmp_path) as running:
        (first, first_log), (second, second_log) = running
        while "event=block_end" not in first_log.read_text():
            assert first.poll() is None, first_log.read_text()
            time.sleep(0.2)
        assert ip("-n", hosts[1].name, "link", "set", hosts[1].name, "down")
        assert first.wait(timeout=90) == 1, first_log.read_text()
        assert second.wait(timeout=90) == 1, second_log.read_text()
    assert "but rank 2 gave no sign of life for" in first_log.read_text()
    gone = second_log.read_text()
    assert "rank 0, which keeps the run's store, has not answered for" in gone
    assert gone.count("longtake: error: rank") == RANKS, "each says it"
