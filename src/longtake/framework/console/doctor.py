"""Doctor: what this machine has and what works on it, for ``longtake doctor``."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, final

import huggingface_hub
import psutil
import torch
import torch.distributed as dist
from huggingface_hub.constants import HF_HUB_CACHE

from longtake.framework.console.versions import versions

_LIMIT: Final = 35.0
"""Seconds for what runs in processes of its own; all of it runs at once."""
_GIGABYTE: Final = 1e9
_WRITTEN: Final = 1 << 26
"""Bytes that are written to see how fast the disk is."""
State: TypeAlias = Literal["ok", "none", "bad"]
"""It works; it is not there, and need not be; it ought to work and does not."""


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was looked at.

    Args:
        part: What.
        state: How it is.
        says: In words.
    """

    part: str
    state: State
    says: str

    def __str__(self) -> str:
        """Return a line of the report."""
        return f"{self.state:<5} {self.part:<20} {self.says}"


def examine() -> Iterator[Finding]:
    """Look at everything, in a minute at most."""
    slow: list[Callable[[], Finding]] = [
        lambda: _handshake("gloo"),
        lambda: _handshake("staged"),
        lambda: _handshake("nccl"),
        _kernels,
    ]
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(one) for one in slow]
        yield _versions()
        yield from _devices()
        yield from _links()
        for answer in answers:
            yield answer.result()
        yield from _disks()
        yield _token()


def show(findings: Iterator[Finding]) -> int:
    """Print what was found, line by line.

    Returns:
        Exit status: 1 where something does not work that ought to.
    """
    bad = False
    for finding in findings:
        bad = bad or finding.state == "bad"
        sys.stdout.write(f"{finding}\n")
        sys.stdout.flush()
    return int(bad)


def _versions() -> Finding:
    found = [f"{name} {version or 'none'}" for name, version in versions().items()]
    found.append(f"cuda {torch.version.cuda or 'none'}")
    return Finding("versions", "ok", ", ".join(found))


def _devices() -> Iterator[Finding]:
    memory = psutil.virtual_memory().total / _GIGABYTE
    threads = torch.get_num_threads()
    yield Finding("cpu", "ok", f"{os.cpu_count()} cores, {threads} threads, {memory:.0f} GB")
    if not torch.cuda.is_available():
        yield Finding("gpu", "none", "PyTorch finds no CUDA device")
        return
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        yield Finding(
            f"gpu {index}",
            "ok",
            f"{about.name}, {about.total_memory / _GIGABYTE:.0f} GB, "
            f"compute capability {about.major}.{about.minor}",
        )


def _links() -> Iterator[Finding]:
    name = socket.gethostname()
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except OSError as error:
        yield Finding("host name", "bad", f"{name} does not resolve ({error.strerror})")
    else:
        yield Finding("host name", "ok", f"{name} is {', '.join(sorted(found))}")
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    pairs = [(one, other) for one in gpus for other in gpus if one < other]
    if pairs:
        direct = [pair for pair in pairs if torch.cuda.can_device_access_peer(*pair)]
        yield Finding("gpu links", "ok", f"{len(direct)} of {len(pairs)} pairs are direct")


def _handshake(transport: str) -> Finding:
    part = f"transport {transport}"
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if transport == "nccl" and (gpus < 2 or not dist.is_nccl_available()):
        has = "has NCCL" if dist.is_nccl_available() else "has no NCCL"
        return Finding(part, "none", f"needs two GPUs; here are {gpus}, and PyTorch {has}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    module = [sys.executable, "-m", "longtake.comm.handshake", transport]
    with subprocess.Popen([*module, "1", port], stderr=subprocess.DEVNULL) as other:
        try:
            printed, why = _run([*module, "0", port])
        finally:
            other.kill()
    if why is not None:
        return Finding(part, "bad", why)
    latency, rate = printed.split()
    where = "GPU" if gpus and transport != "gloo" else "CPU"
    says = f"two ranks on {where}: {latency} us, {rate} GB/s in both directions together"
    return Finding(part, "ok", says)


def _kernels() -> Finding:
    printed, why = _run([sys.executable, "-m", "longtake.framework.console.kernel_probe"])
    names = ", ".join(printed.split())
    if not names:
        return Finding("attention", "bad", why or "no backend runs")
    return Finding("attention", "ok", names if why is None else f"{names} ({why})")


def _run(command: Sequence[str]) -> tuple[str, str | None]:
    """Return what a command has printed, and why it did not end well."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        printed: Any = error.stdout  # bytes, also where text was asked for
        text = printed.decode() if isinstance(printed, bytes) else printed or ""
        return text, f"not done after {_LIMIT:.0f} s"
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return done.stdout, last[0][:200]
    return done.stdout, None


def _disks() -> Iterator[Finding]:
    for part, folder in (("disk, here", Path.cwd()), ("disk, models", Path(HF_HUB_CACHE))):
        there = next(one for one in (folder, *folder.parents) if one.is_dir())
        free = shutil.disk_usage(there).free / _GIGABYTE
        try:
            rate = _write_rate(there)
        except OSError as error:
            yield Finding(part, "bad", f"{there}: {error.strerror}, {free:.0f} GB free")
        else:
            says = f"{there}: {free:.0f} GB free, written at {rate / 1e6:.0f} MB/s"
            yield Finding(part, "ok", says)


def _write_rate(folder: Path) -> float:
    start = time.perf_counter()
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_WRITTEN))
        file.flush()
        os.fsync(file.fileno())
    return _WRITTEN / (time.perf_counter() - start)


def _token() -> Finding:
    offline = "; HF_HUB_OFFLINE is set" if huggingface_hub.constants.HF_HUB_OFFLINE else ""
    if huggingface_hub.get_token() is None:
        return Finding("hub token", "none", f"none: gated models cannot be fetched{offline}")
    return Finding("hub token", "ok", f"there is one{offline}")
