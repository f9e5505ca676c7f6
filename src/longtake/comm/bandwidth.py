"""Bandwidth of the links between ranks, measured on them: for choices, never for results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from longtake.comm.all_to_all import AllToAll
from longtake.comm.communicator import Communicator
from longtake.comm.device_queue import settle
from longtake.comm.rank_group import RankGroup

SMALL: Final = 1 << 16
"""Bytes that a rank sends in a small swap: little more than its latency."""
LARGE: Final = 1 << 24
"""Bytes in a large one, as queries, keys and values of a layer have."""
_TURNS: Final = 3
"""Swaps of each kind; the fastest counts, since the first one opens the links."""
_SIDE: Final = 1024
"""Rows and columns of the matrices that are multiplied beside a swap."""


@final
@dataclass(frozen=True, slots=True)
class Links:
    """What the slowest rank measured.

    Args:
        bandwidth: Bytes per second that a rank sends while it receives as many.
        latency: Seconds of a swap beyond that.
        hiding: Share of a swap's time that computing hides.
    """

    bandwidth: float
    latency: float
    hiding: float


def measure_links(
    ranks: Sequence[int], groups: Sequence[tuple[int, ...]], communicator: Communicator
) -> Links:
    """Swap a few messages in several groups at once, alone and beside matrix products.

    Takes a fraction of a second. Collective: all ranks of the run call it, and all get the same.

    Args:
        ranks: Those of this rank's group, itself included; empty where it is in none.
        groups: All groups that the run needs, in the same order on all ranks.
        communicator: The ranks of the run.
    """
    communicator.make_groups(groups)
    seconds = [0.0, 0.0, 0.0]
    if len(ranks) > 1:
        with communicator.meeting("measure the links"):
            seconds = _measure(
                communicator.group(tuple(ranks)),
                ranks.index(communicator.rank),
                len(ranks),
                communicator,
            )
    reported = [
        list(map(float, text.split())) for text in communicator.gather(" ".join(map(repr, seconds)))
    ]
    slowest = (
        torch.tensor(reported, dtype=torch.float64).amax(dim=0) if communicator.rank == 0 else None
    )
    small, large, shown = communicator.share(slowest).tolist()
    bandwidth = (LARGE - SMALL) / max(large - small, 1e-9)
    return Links(bandwidth, max(small - SMALL / bandwidth, 0.0), 1.0 - shown)


def _measure(group: RankGroup, index: int, degree: int, communicator: Communicator) -> list[float]:
    """Return the seconds of a small and a large swap, and what share of it computing shows."""

    def swap(size: int, products: int = 0) -> float:
        parts = _pieces(size // (degree - 1), degree, communicator.device)
        places = _pieces(size // (degree - 1), degree, communicator.device)
        # What was queued before must not count, and the ranks begin together.
        AllToAll.begin(
            group, index, [[part[:1]] for part in parts], [[p[:1]] for p in places]
        ).end()
        start = _now(communicator.device)
        under_way = AllToAll.begin(group, index, [[p] for p in parts], [[p] for p in places])
        for _ in range(products):
            torch.mm(square, square)
        under_way.end()
        return _now(communicator.device) - start

    square = torch.ones(_SIDE, _SIDE, device=communicator.device)
    small, large = (min(swap(size) for _ in range(_TURNS)) for size in (SMALL, LARGE))
    product = min(_product_seconds(square) for _ in range(_TURNS))
    products = max(1, round(large / product))
    both = min(swap(LARGE, products) for _ in range(_TURNS))
    hidden = (large + products * product - both) / min(large, products * product)
    return [small, large, 1.0 - min(max(hidden, 0.0), 1.0)]


def _product_seconds(square: Tensor) -> float:
    start = _now(square.device)
    torch.mm(square, square)
    return _now(square.device) - start


def _pieces(size: int, count: int, device: torch.device) -> list[Tensor]:
    return [torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(count)]


def _now(device: torch.device) -> float:
    """Return the time when everything queued on the device is done."""
    settle(device)
    return time.perf_counter()
