"""Calibration: how fast this machine multiplies, attends, convolves, copies and sends."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import psutil
import torch
from torch import Tensor
from torch.distributed import HashStore, ProcessGroupGloo  # type: ignore[attr-defined]
from torch.nn import functional

from longtake.comm.device_queue import settle
from longtake.plan.cost.profiles import hardware_of

DTYPES: Final = (torch.float32, torch.bfloat16)
_WIDTH: Final = 1536
"""Model dim of the matrices: Wan 1.3B's."""
_MANY, _FEW = 2048, 32
"""Rows of a large product, and of one that is far from the full rate."""
_HEADS, _HEAD, _TOKENS = 12, 128, 2048
_CHANNELS, _PICTURE = 96, (3, 48, 80)
"""Of a VAE's convolution."""
_COPIED: Final = 1 << 28
"""Bytes that are copied."""
_SMALL, _LARGE = 1 << 10, 1 << 24
"""Bytes of messages."""
_ROUNDS: Final = 5
_PATIENCE: Final = 4.0
"""Seconds after which a number is not measured again."""


Now: TypeAlias = Callable[[], float]
"""A clock."""


def calibrate(
    device: torch.device, clock: Now = time.perf_counter
) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """Measure a device of this machine; takes well under two minutes.

    Args:
        device: What is measured.
        clock: What computing is measured by; ``time.process_time`` for one thread of a CPU that
            others use as well.

    Returns:
        The device's name, facts on the measurement, and the numbers with what they are.
    """
    known = hardware_of(device, torch.bfloat16)
    memory = float(psutil.virtual_memory().total) if device.type == "cpu" else known.memory
    links = _links() if device.type == "cpu" else (known.bandwidth, known.latency)
    kind = "measured" if device.type == "cpu" else "estimate"
    numbers: dict[str, Any] = {"matmul": {}, "attention": {}, "half_rate": {}}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        full, few = (_product_rate(rows, device, dtype, clock) for rows in (_MANY, _FEW))
        # With n rows they run at n / (n + half) of the rate that many rows come near to.
        half = max(0.0, (full - few) / (few / _FEW - full / _MANY)) if few < full else 0.0
        numbers["half_rate"][name] = [half, "measured"]
        numbers["matmul"][name] = [full * (1 + half / _MANY), "measured"]
        numbers["attention"][name] = [_attention_rate(device, dtype, clock), "measured"]
    numbers |= {
        "convolution": [_convolution_rate(device, clock), "measured"],
        "bandwidth": [links[0], kind],
        "latency": [links[1], kind],
        "launch": [known.launch, "estimate"],
        "memory": [memory, "measured"],
        "hiding": [known.hiding, "estimate"],
        "memory_bandwidth": [2 * _COPIED / _seconds(_copying(device), device, clock), "measured"],
        "node_bandwidth": [min(known.node_bandwidth, links[0]), "estimate"],
        "node_latency": [max(known.node_latency, links[1]), "estimate"],
    }
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "load": round(psutil.getloadavg()[0], 1),
    }
    return known.name, facts, numbers


def _seconds(run: Callable[[], object], device: torch.device, clock: Now) -> float:
    """Return the median time of a few runs: the machine may have other work."""
    run()
    found: list[float] = []
    while len(found) < _ROUNDS and sum(found) < _PATIENCE:
        settle(device)
        begun = clock()
        run()
        settle(device)
        found.append(clock() - begun)
    return statistics.median(found)


def _product_rate(rows: int, device: torch.device, dtype: torch.dtype, clock: Now) -> float:
    left = torch.ones(rows, _WIDTH, device=device, dtype=dtype)
    right = torch.ones(_WIDTH, 4 * _WIDTH, device=device, dtype=dtype)
    return 2 * rows * 4 * _WIDTH**2 / _seconds(lambda: left @ right, device, clock)


def _attention_rate(device: torch.device, dtype: torch.dtype, clock: Now) -> float:
    q = torch.ones(1, _HEADS, _TOKENS, _HEAD, device=device, dtype=dtype)
    seconds = _seconds(lambda: functional.scaled_dot_product_attention(q, q, q), device, clock)
    return 4 * _HEADS * _TOKENS**2 * _HEAD / seconds


def _convolution_rate(device: torch.device, clock: Now) -> float:
    frames = torch.ones(1, _CHANNELS, *_PICTURE, device=device)
    kernel = torch.ones(_CHANNELS, _CHANNELS, 3, 3, 3, device=device)
    seconds = _seconds(lambda: functional.conv3d(frames, kernel, padding=1), device, clock)
    pixels = _PICTURE[0] * _PICTURE[1] * _PICTURE[2]
    return 2 * 27 * _CHANNELS**2 * pixels / seconds


def _copying(device: torch.device) -> Callable[[], Tensor]:
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _links() -> tuple[float, float]:
    """Return bandwidth and latency between two ranks of this machine, over gloo's loopback."""
    store = HashStore()
    with ThreadPoolExecutor(2) as ranks:
        first, _ = ranks.map(lambda rank: _swap(store, rank), range(2))
    small, large = first
    return (_LARGE - _SMALL) / max(large - small, 1e-9), small


def _swap(store: HashStore, rank: int) -> tuple[float, float]:
    """Send small and large messages to and fro; return the seconds of one, one way."""
    group: Any = ProcessGroupGloo(store, rank, 2, timedelta(seconds=30))
    found = []
    for size in (_SMALL, _LARGE):
        message = torch.zeros(size, dtype=torch.uint8)
        seconds = []
        for turn in range(_ROUNDS + 1):
            begun = time.perf_counter()
            for sender in (0, 1):
                if rank == sender:
                    group.send([message], 1 - rank, turn).wait()
                else:
                    group.recv([message], sender, turn).wait()
            seconds.append((time.perf_counter() - begun) / 2)
        found.append(statistics.median(seconds[1:]))  # the first one opens the link
    return found[0], found[1]
