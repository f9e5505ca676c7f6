"""Calibration: how fast this machine multiplies, attends, convolves, passes and sends."""

from __future__ import annotations

import math
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
from longtake.models.passes import Passes
from longtake.plan.cost.calibrated import OF_DTYPES
from longtake.plan.cost.profiles import hardware_of

DTYPES: Final = (torch.float32, torch.bfloat16)
_WIDTH: Final = 1536
"""Model dim of the matrices: Wan 1.3B's."""
_MANY, _FEW = 2048, 32
"""Rows of a large product, and of one that is far from the full rate."""
_HEADS, _TOKENS = 12, 1536
_HEAD, _NARROW = 128, 32
"""Sizes of a head."""
_ROWS: Final = 1024
"""Of hidden states that are passed over, each of ``_WIDTH`` numbers."""
_CALLS: Final = 200
_CHANNELS, _PICTURE = 96, (3, 96, 160)
"""Of a VAE's convolution: as large that a CPU does not unfold it."""
_FEW_CHANNELS, _SMALL_PICTURE = 32, (4, 64, 64)
"""Of one that PyTorch unfolds on a CPU."""
_COPIED: Final = 1 << 28
"""Bytes that are copied."""
_SMALL, _LARGE = 1 << 10, 1 << 24
"""Bytes of messages."""
_ROUNDS: Final = 5
_PATIENCE: Final = 4.0
"""Seconds after which a number is not measured again."""


Now: TypeAlias = Callable[[], float]
"""A clock."""
Run: TypeAlias = Callable[[], object]
"""What is timed."""


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
    numbers: dict[str, Any] = {name: {} for name in OF_DTYPES}
    call, cpu = _call_seconds(device, clock), device.type == "cpu"
    full, thin = (_convolution_rate(count, device, clock) for count in (_CHANNELS, _FEW_CHANNELS))
    half_channels = _half(full, thin, _CHANNELS, _FEW_CHANNELS)
    convolution = full * (1 + half_channels / _CHANNELS)
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        full, few = (_product_rate(rows, device, dtype, clock) for rows in (_MANY, _FEW))
        half = _half(full, few, _MANY, _FEW)
        numbers["half_rate"][name] = [half, "measured"]
        numbers["matmul"][name] = [full * (1 + half / _MANY), "measured"]
        attention, score = _attention_rates(device, dtype, clock)
        numbers["attention"][name] = [attention, "measured"]
        numbers["score"][name] = [score, "measured"]
        layer = _moved_rate(_layer_passes(device, dtype), device, clock, call)
        numbers["passes"][name] = [layer, "measured"]
    numbers |= {
        "convolution": [convolution, "measured"],
        "unfolding": [_unfolding_rate(device, clock, convolution) if cpu else math.inf, "measured"],
        "decoder_passes": [_moved_rate(_decoder_passes(device), device, clock, call), "measured"],
        "half_channels": [half_channels, "measured"],
        "call": [call if cpu else 0.0, "measured"],
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
        "cpu": cpu,
    }
    return known.name, facts, numbers


def _seconds(run: Run, device: torch.device, clock: Now) -> float:
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


def _half(full: float, few: float, many: int, small: int) -> float:
    """Return the size at which half of the full rate is reached, from the rates at two sizes.

    With n rows, or channels, the rate is n / (n + half) of the one that many come near to.
    """
    return max(0.0, (full - few) / (few / small - full / many)) if few < full else 0.0


def _product_rate(rows: int, device: torch.device, dtype: torch.dtype, clock: Now) -> float:
    left = torch.ones(rows, _WIDTH, device=device, dtype=dtype)
    right = torch.ones(_WIDTH, 4 * _WIDTH, device=device, dtype=dtype)
    return 2 * rows * 4 * _WIDTH**2 / _seconds(lambda: left @ right, device, clock)


def _attention_rates(device: torch.device, dtype: torch.dtype, clock: Now) -> tuple[float, float]:
    """Return the rate of attention's products, and the operations that a score is worth besides.

    A head of ``D`` numbers has ``4 D`` operations per query and key, and one exponential.
    """

    def seconds(head: int) -> float:
        q = torch.ones(1, _HEADS, _TOKENS, head, device=device, dtype=dtype)
        run = functional.scaled_dot_product_attention
        return _seconds(lambda: run(q, q, q), device, clock) / (_HEADS * _TOKENS**2)

    wide, narrow = seconds(_HEAD), seconds(_NARROW)
    each = (wide - narrow) / (4 * (_HEAD - _NARROW))
    if each <= 0.0:  # of times that were disturbed, the mean alone is taken
        return 4 * _HEAD / wide, 0.0
    return 1 / each, max(0.0, narrow / each - 4 * _NARROW)


def _convolution_rate(channels: int, device: torch.device, clock: Now) -> float:
    depth, height, width = _PICTURE
    picture = (depth, height * _CHANNELS // channels, width)  # as many numbers: not unfolded
    run = _convolving(channels, picture, device)
    return 54.0 * channels**2 * math.prod(picture) / _seconds(run, device, clock)


def _unfolding_rate(device: torch.device, clock: Now, convolution: float) -> float:
    """Return the bytes per second of the matrix that a small convolution is unfolded to."""
    run = _convolving(_FEW_CHANNELS, _SMALL_PICTURE, device)
    numbers = 27 * _FEW_CHANNELS * math.prod(_SMALL_PICTURE)
    product = 2 * numbers * _FEW_CHANNELS / convolution
    seconds = _seconds(run, device, clock)
    return float(4 * numbers / max(seconds - product, seconds / 2))


def _convolving(channels: int, picture: tuple[int, int, int], device: torch.device) -> Run:
    frames = torch.ones(1, channels, *picture, device=device)
    kernel = torch.ones(channels, channels, 3, 3, 3, device=device)
    return lambda: functional.conv3d(frames, kernel, padding=1)


def _call_seconds(device: torch.device, clock: Now) -> float:
    """Return what an operation takes that has next to nothing to do."""
    one = torch.ones(1, device=device)

    def run() -> None:
        for _ in range(_CALLS):
            one.add(one)

    return _seconds(run, device, clock) / _CALLS


def _moved_rate(run: Run, device: torch.device, clock: Now, call: float) -> float:
    """Return the bytes per second of passes over memory, as they are counted of a model."""
    passes = Passes()
    with passes:
        run()
    seconds = _seconds(run, device, clock) - passes.calls * call
    return passes.moved / max(seconds, passes.calls * call)


def _layer_passes(device: torch.device, dtype: torch.dtype) -> Run:
    """Return what a layer does besides products: norms, modulation, rotation, gates, GELU."""
    hidden = torch.ones(1, _ROWS, _WIDTH, device=device, dtype=dtype)
    inner = torch.ones(1, _ROWS, 4 * _WIDTH, device=device, dtype=dtype)
    vector = torch.ones(_WIDTH, device=device, dtype=dtype)
    pairs = torch.ones(1, _ROWS, _WIDTH // 2, device=device, dtype=torch.complex64)

    def run() -> None:
        for _ in range(2):  # queries and keys
            normed = functional.rms_norm(hidden, (_WIDTH,), vector)
            turned = torch.view_as_complex(normed.float().view(1, _ROWS, -1, 2)) * pairs
            torch.view_as_real(turned).flatten(-2).type_as(hidden)
        for _ in range(2):  # around attention and the feed-forward
            states = functional.layer_norm(hidden.float(), (_WIDTH,)) * (1 + vector) + vector
            (hidden.float() + states * vector).type_as(hidden)
        functional.gelu(inner, approximate="tanh")

    return run


def _decoder_passes(device: torch.device) -> Run:
    """Return what a block of a VAE does besides convolutions: norm, SiLU, cache, padding, sum."""
    frames = torch.ones(1, _CHANNELS, *_PICTURE, device=device)
    scale = torch.ones(_CHANNELS, 1, 1, 1, device=device)

    def run() -> None:
        normed = functional.silu(functional.normalize(frames, dim=1) * scale)
        functional.pad(torch.cat([frames[:, :, :2], normed], dim=2), (1, 1, 1, 1))
        frames.add(normed)

    return run


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
