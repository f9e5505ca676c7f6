"""Memory of this process and its device."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import torch

MEGABYTE = 1e6


def resident_bytes() -> int:
    """Return the host memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """Return the most host memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would give the parent's peak where that was larger: exec keeps it.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return resident_bytes()


def anonymous_bytes() -> int | None:
    """Return the host memory that this process holds now, without the files that it has mapped.

    ``None`` where the system does not say.
    """
    status = Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def device_bytes(device: torch.device) -> int | None:
    """Return what tensors hold on a CUDA device now; ``None`` for another device."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def peak_device_bytes(device: torch.device) -> int | None:
    """Return the most that tensors have held on a CUDA device; ``None`` for another device."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
