"""Order of messages: what the ranks of a communicator began, and where two of them differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True)
class Sent:
    """A message as one of its ranks began it.

    Args:
        communicator: In which.
        source: The rank that gives.
        target: The rank that gets.
        numbers: How many it holds.
    """

    communicator: str
    source: int
    target: int
    numbers: int


def misordered(logs: Sequence[Sequence[Sent]]) -> list[str]:
    """Return what two ranks began in different orders, in words: nothing is as it must be.

    Args:
        logs: Of all ranks; between two ranks, a communicator has one order of messages.
    """
    seen: dict[tuple[str, int, int], list[list[int]]] = {}
    for log in logs:
        of_rank: dict[tuple[str, int, int], list[int]] = {}
        for sent in log:
            link = (sent.communicator, sent.source, sent.target)
            of_rank.setdefault(link, []).append(sent.numbers)
        for link, sizes in of_rank.items():
            seen.setdefault(link, []).append(sizes)
    return [
        f"{name}: rank {source} to rank {target}"
        for (name, source, target), sides in seen.items()
        if len(sides) != 2 or sides[0] != sides[1]
    ]
