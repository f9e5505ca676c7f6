"""Hardware profiles of known devices, for choosing layouts and predicting idle shares.

Peaks are the published ones (dense, not "with sparsity"). The share of a peak that a model reaches,
latencies and launches are estimates: none of them has been measured on these GPUs. What counts for
a choice is how computing, decoding and transfers relate. A device that is not in the table is taken
to be a middling one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

import psutil
import torch

from longtake.errors import ConfigurationError, nearest
from longtake.plan.devices import Hardware

_MATMUL_SHARE: Final = 0.5
"""Of the peak, for large matrix products and fused attention together. An estimate."""
_CONVOLUTION_SHARE: Final = 0.4
"""Of the fp32 peak without tensor cores, for the 3D convolutions of a VAE. An estimate."""
_LINK_SHARE: Final = 0.75
"""Of a link's peak in one direction, for messages of many megabytes. An estimate."""
_GPU_LATENCY: Final = 3e-5
"""Seconds: launch of the transfer on both sides, and the link. An estimate."""
_GPU_LAUNCH: Final = 3e-4
"""Seconds that the GPU waits for the host: the first kernels after a receive. An estimate."""

_NVLINK_5, _NVLINK_4, _NVLINK_3 = 900e9, 450e9, 300e9  # all links of a GPU, one direction
_PCIE_5, _PCIE_4 = 64e9, 32e9  # 16 lanes, one direction
_THROUGH_HOST = _PCIE_4 / 2  # GeForce: no peer-to-peer, so every byte crosses PCIe twice


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A data sheet: peak operations per second, bytes per second, bytes.

    Args:
        tensor: bf16 products with fp32 sums on tensor cores, dense.
        fp32: Without tensor cores.
        link: To another device of the same machine, one direction.
        memory: Of the device.
    """

    tensor: float
    fp32: float
    link: float
    memory: float


# Peaks of H200, H100, A100, A10, L40 and L4 and the fp32 peaks of RTX A6000, 4090 and 3090 agree
# with the table in lightning.fabric.utilities.throughput, which names NVIDIA's sheets (it counts
# H200's bf16 with sparsity). GeForce cards run bf16 products with fp32 sums at half the rate of
# those with fp16 sums. RTX 6000 Ada, RTX 5090, B200's fp32 and all links are unchecked.
_SHEETS: Final = {
    "B200": _Sheet(2250e12, 75e12, _NVLINK_5, 180e9),
    "H200": _Sheet(989e12, 67e12, _NVLINK_4, 141e9),
    "H100": _Sheet(989e12, 67e12, _NVLINK_4, 80e9),
    "H100 PCIe": _Sheet(756e12, 51e12, _PCIE_5, 80e9),
    "A100": _Sheet(312e12, 19.5e12, _NVLINK_3, 80e9),
    "A100 PCIe": _Sheet(312e12, 19.5e12, _PCIE_4, 80e9),
    "A10": _Sheet(125e12, 31.2e12, _PCIE_4, 24e9),
    "L40": _Sheet(181e12, 90.5e12, _PCIE_4, 48e9),
    "L40S": _Sheet(362e12, 91.6e12, _PCIE_4, 48e9),
    "L4": _Sheet(121e12, 30.3e12, _PCIE_4 / 2, 24e9),  # 8 lanes
    "RTX 6000 Ada": _Sheet(364e12, 91.1e12, _PCIE_4, 48e9),
    "RTX A6000": _Sheet(155e12, 38.7e12, _PCIE_4, 48e9),
    "RTX 5090": _Sheet(209e12, 105e12, _THROUGH_HOST * 2, 32e9),
    "RTX 4090": _Sheet(165e12, 82.6e12, _THROUGH_HOST, 24e9),
    "RTX 3090": _Sheet(71e12, 35.6e12, _THROUGH_HOST, 24e9),
}
_UNKNOWN: Final = _Sheet(150e12, 40e12, _PCIE_4, 24e9)

_CPU_THREAD: Final = 80e9
"""Operations per second of a thread, whatever the dtype. One core with AVX-512 and AMX measured
97e9 in fp32 matrix products, 92e9 in 3D convolutions and 650e9 in bf16; without AMX bf16 has no
such advantage."""


def profile(name: str, dtype: torch.dtype = torch.bfloat16) -> Hardware:
    """Return what a device known by name does, for planning on another machine.

    Args:
        name: As in the table, whatever the case: ``H200``, ``RTX 4090``, ``cpu``.
        dtype: Of the hidden states.

    Raises:
        ConfigurationError: No such name; names the nearest.
    """
    if name.lower() == "cpu":
        return _cpu()
    for known, sheet in _SHEETS.items():
        if known.lower() == name.lower():
            return _of_sheet(known, sheet, dtype)
    names = [*_SHEETS, "cpu"]
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
    sheet = _UNKNOWN if known is None else _SHEETS[known]
    hardware = _of_sheet(known or f"unknown {properties.name}", sheet, dtype)
    return replace(hardware, memory=float(properties.total_memory))


def match_name(device_name: str) -> str | None:
    """Return the table's name for what a driver calls a device, or ``None``.

    The longest name whose words all occur: ``NVIDIA H100 PCIe`` is an ``H100 PCIe``.
    """
    words = set(re.split(r"[^a-z0-9]+", device_name.lower()))
    fitting = [name for name in _SHEETS if words.issuperset(name.lower().split())]
    return max(fitting, key=len, default=None)


def _of_sheet(name: str, sheet: _Sheet, dtype: torch.dtype) -> Hardware:
    half = dtype in (torch.bfloat16, torch.float16)
    return Hardware(
        name=name,
        # PyTorch computes fp32 products without tensor cores unless it is told otherwise.
        matmul=_MATMUL_SHARE * (sheet.tensor if half else sheet.fp32),
        convolution=_CONVOLUTION_SHARE * sheet.fp32,
        bandwidth=_LINK_SHARE * sheet.link,
        latency=_GPU_LATENCY,
        launch=_GPU_LAUNCH,
        memory=sheet.memory,
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
    )
