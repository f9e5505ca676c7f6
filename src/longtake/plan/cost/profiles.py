"""Hardware profiles of known devices, for choosing layouts and predicting idle shares.

``assets/hardware.yaml`` has the peaks (dense, not "with sparsity"), and the share of a peak that a
model reaches, latencies and launches, each with its source or the word estimate: none has been
measured on these GPUs. What counts for a choice is how computing, decoding and transfers relate. A
device that is not in the table is taken to be a middling one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import psutil
import torch
import yaml

from longtake.errors import ConfigurationError, nearest
from longtake.plan.cost.calibrated import read_calibration
from longtake.plan.devices import Hardware

FILE: Final = Path(__file__).parents[2] / "assets" / "hardware.yaml"


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A data sheet: peak operations per second, bytes per second, bytes; see the file."""

    tensor: float
    fp32: float
    link: float
    node_link: float
    memory: float
    memory_bandwidth: float


def _sheets() -> dict[str, _Sheet]:
    devices = _file()["devices"]
    return {name: _Sheet(**_values(numbers)) for name, numbers in devices.items()}


@cache
def _file() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return content


def _values(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return numbers without their sources."""
    return {name: value for name, (value, _) in numbers.items()}


_UNKNOWN: Final = _Sheet(150e12, 40e12, 32e9, 12.5e9, 24e9, 600e9)
"""A middling device."""

_CPU_THREAD: Final = 80e9
"""Operations per second of a thread, whatever the dtype. One core with AVX-512 and AMX measured
97e9 in fp32 matrix products, 92e9 in 3D convolutions and 650e9 in bf16; without AMX bf16 has no
such advantage."""


def profile(name: str, dtype: torch.dtype = torch.bfloat16) -> Hardware:
    """Return what a device known by name does, for planning on another machine.

    Args:
        name: As in the table, whatever the case: ``H200``, ``RTX 4090``, ``cpu``; or the file of
            ``longtake calibrate``, which goes first.
        dtype: Of the hidden states.

    Raises:
        ConfigurationError: No such name; names the nearest. Or the file is none.
    """
    if Path(name).is_file():
        return read_calibration(Path(name), dtype)
    if name.lower() == "cpu":
        return _cpu()
    for known, sheet in _sheets().items():
        if known.lower() == name.lower():
            return _of_sheet(known, sheet, dtype)
    names = [*_sheets(), "cpu"]
    raise ConfigurationError(
        f"no hardware profile is named {name!r}; the nearest is {nearest(name, names)!r} of "
        f"{', '.join(names)}."
    )


def hardware_of(device: torch.device, dtype: torch.dtype) -> Hardware:
    """Return what a device of this machine does; its memory is asked of the device itself.

    Args:
        device: The device.
        dtype: Of the hidden states.
    """
    if device.type == "cpu":
        return _cpu()
    if device.type != "cuda":
        return _of_sheet(f"unknown {device.type}", _UNKNOWN, dtype)
    properties = torch.cuda.get_device_properties(device)
    known = match_name(properties.name)
    sheet = _UNKNOWN if known is None else _sheets()[known]
    hardware = _of_sheet(known or f"unknown {properties.name}", sheet, dtype)
    return replace(hardware, memory=float(properties.total_memory))


def match_name(device_name: str) -> str | None:
    """Return the table's name for what a driver calls a device, or ``None``.

    The longest name whose words all occur: ``NVIDIA H100 PCIe`` is an ``H100 PCIe``.
    """
    words = set(re.split(r"[^a-z0-9]+", device_name.lower()))
    fitting = [name for name in _sheets() if words.issuperset(name.lower().split())]
    return max(fitting, key=len, default=None)


def _of_sheet(name: str, sheet: _Sheet, dtype: torch.dtype) -> Hardware:
    half = dtype in (torch.bfloat16, torch.float16)
    shares = _values(_file()["shares"])
    return Hardware(
        name=name,
        # PyTorch computes fp32 products without tensor cores unless it is told otherwise.
        matmul=shares["matmul"] * (sheet.tensor if half else sheet.fp32),
        convolution=shares["convolution"] * sheet.fp32,
        bandwidth=shares["link"] * sheet.link,
        latency=shares["latency"],
        launch=shares["launch"],
        memory=sheet.memory,
        memory_bandwidth=shares["memory_bandwidth"] * sheet.memory_bandwidth,
        half_rate=shares["half_rate"],
        node_bandwidth=shares["link"] * sheet.node_link,
        node_latency=shares["node_latency"],
    )


def _cpu() -> Hardware:
    threads = torch.get_num_threads()
    return Hardware(
        name=f"cpu, {threads} thread{'s' * (threads > 1)}",
        matmul=threads * _CPU_THREAD,
        convolution=threads * _CPU_THREAD,
        # About what gloo gave between processes of one machine: 0.6 to 3.2 GB/s, 1.5 ms.
        bandwidth=1e9,
        latency=1.5e-3,
        launch=1e-3,
        memory=float(psutil.virtual_memory().total),
        hiding=0.0,  # gloo's threads run on the same cores
        cpu=True,
    )
