"""A run of a local model asks no machine but this one for anything: no telemetry, no look-ups."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, run, tiny_options
from tests.cli.hosts import Host, ip, two_hosts

HOOK = '''
"""Writes down where every Python process of the run connects to, and what names it looks up."""
import json, os, sys

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0", "::ffff:127.")


def hook(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        place = args[1] if event in ("socket.connect", "socket.sendto") else args[0]
        host = place[0] if isinstance(place, tuple) else place
        if isinstance(host, bytes):
            host = host.decode(errors="replace")
        unix = isinstance(place, (str, bytes)) and event in ("socket.connect", "socket.sendto")
        if not unix and not str(host).startswith(LOOPBACK) and host not in (None, ""):
            with open(os.environ["SEEN_SOCKETS"], "a") as file:
                file.write(json.dumps([event, str(host)]) + "\\n")


sys.addaudithook(hook)
'''


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """Return a folder whose ``sitecustomize`` every Python process imports."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK)
    return folder


def test_the_hook_sees_a_connection(modules: Path, tmp_path: Path) -> None:
    code = "import socket; socket.getaddrinfo('203.0.113.1', 80)"
    seen = tmp_path / "seen"
    run([COMMAND[0], "-c", code], modules, {"SEEN_SOCKETS": str(seen)})
    assert json.loads(seen.read_text()) == ["socket.getaddrinfo", "203.0.113.1"]


@pytest.mark.parametrize(
    ("command", "offline"),
    [("predict", ""), ("predict", "1"), ("plan", ""), ("plan", "1"), ("models", "")],
)
def test_a_local_run_asks_no_other_machine(
    command: str, offline: str, model: Path, modules: Path, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    options = [] if command == "models" else [*tiny_options(model), "--output", str(tmp_path / "o")]
    variables = {"SEEN_SOCKETS": str(seen), "HF_HUB_OFFLINE": offline, "HOME": str(tmp_path)}
    done = run([*COMMAND, command, *options], modules, variables)
    assert done.returncode == 0, done.stderr
    assert not seen.exists(), seen.read_text()


def test_two_ranks_ask_no_other_machine(model: Path, modules: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    options = [*tiny_options(model), "--output", str(tmp_path / "o"), "--trainer.devices", "2"]
    done = run([*COMMAND, "predict", *options], modules, {"SEEN_SOCKETS": str(seen)})
    assert done.returncode == 0, done.stderr
    assert not seen.exists(), seen.read_text()


def sent(host: Host) -> int:
    """Return the packets that have left a host."""
    file = f"/sys/class/net/{host.name}/statistics/tx_packets"
    done = subprocess.run(host.command("cat", file), capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_nothing_of_a_run_leaves_the_machine(model: Path, tmp_path: Path) -> None:
    """Whatever language opens a socket: on a host with a way out no packet takes it.

    Of one rank: of several PyTorch's store asks the resolver for the name of the loopback.
    """
    with two_hosts() as (host, other):
        assert ip("-n", host.name, "route", "add", "default", "via", other.address)
        before = sent(host)
        options = [*tiny_options(model), "--output", str(tmp_path / "o")]
        done = run(host.command(*COMMAND, "predict", *options))
        assert done.returncode == 0, done.stderr
        assert sent(host) == before
        code = "import socket; socket.create_connection(('203.0.113.1', 80), timeout=1)"
        run(host.command(COMMAND[0], "-c", code))
        assert sent(host) > before, "packets would have been seen"
