"""Replicas of the mesh, the data axis: which of them makes which requests, and how many there are.

A run with several requests may divide its devices: each replica is a mesh of its own, that makes
its share of the requests with nobody else. Who makes what is settled before anything runs, by what
each request is predicted to take: a video's time is known from its length, so nothing is gained by
waiting for who is free first, and every rank knows it by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self, final

from longtake.errors import ConfigurationError
from longtake.plan.cost.simulator import ENOUGH_BLOCKS, Clock, bounded
from longtake.plan.layout import Layout
from longtake.plan.search.layouts import CLOSE, is_exact
from longtake.plan.workload import Workload

_STEADY: Final = 2
"""Times as many blocks as stages after which a pipeline has filled."""


@final
@dataclass(frozen=True, slots=True)
class Replicas:
    """Which replica makes which requests.

    Args:
        shares: Of each replica, the requests' numbers in the run, in the order in which they are
            made.
        seconds: What each share is predicted to take; empty where nothing was predicted.
    """

    shares: tuple[tuple[int, ...], ...]
    seconds: tuple[float, ...] = ()

    @classmethod
    def one(cls, requests: Sequence[int]) -> Self:
        """Return the only replica of a run: it makes everything."""
        return cls((tuple(requests),))

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.shares)

    @property
    def makespan(self) -> float | None:
        """Seconds until the last one is done, as far as that was predicted."""
        return max(self.seconds, default=None)


@final
@dataclass(frozen=True, slots=True)
class Division:
    """A way to divide the devices of a run.

    Args:
        layout: Of each replica.
        replicas: How many there are, and who makes what.
    """

    layout: Layout
    replicas: Replicas


def best_division(divisions: Sequence[Division]) -> Division:
    """Return the division whose last replica is done first.

    Of those that take at most 2 % longer, one that is bit-equal to the serial run, then the one
    with the fewest replicas. Without predictions the first one.
    """
    spans = [one.replicas.makespan for one in divisions]
    known = [span for span in spans if span is not None]
    if len(known) < len(divisions):
        return divisions[0]
    able = [one for one, span in zip(divisions, known, strict=True) if span <= CLOSE * min(known)]
    return min(able, key=lambda one: (not is_exact(one.layout), one.replicas.count))


def assign(seconds: Mapping[int, float], count: int) -> Replicas:
    """Return who makes what: the longest request first, to whoever has the least to do.

    At most a third longer than the best there is (Graham 1969), and the same on every rank: what
    is as long goes by number. A replica makes its requests in the order of their numbers.

    Args:
        seconds: What each request takes, by its number in the run.
        count: Number of replicas; at most as many as requests.
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [0.0] * count
    for index in sorted(seconds, key=lambda one: (-seconds[one], one)):
        least = min(range(count), key=lambda number: (loads[number], len(shares[number]), number))
        shares[least].append(index)
        loads[least] += seconds[index]
    return Replicas(tuple(tuple(sorted(share)) for share in shares), tuple(loads))


def request_seconds(workload: Workload, layout: Layout, clock: Clock) -> float:
    """Return what one request takes: of a long video, its first blocks and the pace after them.

    Args:
        workload: The request; finite.
        layout: Of a replica.
        clock: The strategy's.

    Raises:
        NoPlan: The strategy gives no actions.
    """
    blocks = max(ENOUGH_BLOCKS, 2 * _STEADY * layout.mesh.pipe)
    first = bounded(workload, blocks)
    seconds = clock(first)(layout).makespan
    assert workload.latent_frames is not None
    assert first.latent_frames is not None
    rest = workload.latent_frames - first.latent_frames
    if not rest:
        return seconds
    half = bounded(first, blocks // 2)
    assert half.latent_frames is not None
    pace = (seconds - clock(half)(layout).makespan) / (first.latent_frames - half.latent_frames)
    return seconds + rest * pace


def replica_counts(
    asked: int | Literal["auto"], world_size: int, endless: Sequence[bool]
) -> list[int]:
    """Return the numbers of replicas that are possible: the one that was asked for, or all.

    Args:
        asked: The option ``data``.
        world_size: Number of devices; replicas have as many each.
        endless: Of each request, whether it never ends.

    Raises:
        ConfigurationError: What was asked for is impossible; names what is possible.
    """
    requests = len(endless)
    possible = [
        count
        for count in range(1, min(world_size, requests) + 1)
        if world_size % count == 0 and (count == 1 or not any(endless) or count == requests)
    ]
    if asked == "auto":
        return [1] if any(endless) else possible
    if asked in possible:
        return [asked]
    devices = "1 device" if world_size == 1 else f"{world_size} devices"
    said = f"trainer.strategy.data is {asked} on {devices} for {_count(requests, 'request')}"
    if asked < 1 or world_size % asked:
        why = "replicas are at least 1, and have as many devices each"
    elif asked > requests:
        why = f"{_count(asked - requests, 'replica')} would have nothing to make"
    else:
        why = (
            f"{_count(sum(endless), 'request')} never {'ends' if sum(endless) == 1 else 'end'}, so "
            f"what waits behind would never begin: with endless videos each replica makes one"
        )
    nearest = sorted(possible, key=lambda count: (abs(count - asked), -count))
    choices = " or ".join(map(str, sorted(nearest[:2])))
    raise ConfigurationError(f"{said}, but {why}; possible: {choices}.")


def _count(number: int, of: str) -> str:
    return f"{number} {of}{'s' * (number != 1)}"
