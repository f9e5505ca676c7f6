"""Comparison of everything that a number of devices can do for a request: time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, final

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV
from longtake.errors import ConfigurationError
from longtake.framework.engine.memory import Played, RunMemory
from longtake.framework.engine.preflight import held_frames
from longtake.framework.engine.request import Request
from longtake.framework.engine.workloads import Workloads
from longtake.plan.check.methods import check_method
from longtake.plan.cost.ring_clock import ring_time
from longtake.plan.cost.rundown import Rundown, rundown
from longtake.plan.cost.simulator import ENOUGH_BLOCKS, bounded
from longtake.plan.layout import Layout
from longtake.plan.search.decoders import most_decoders
from longtake.plan.search.layouts import CLOSE, candidates, rank_of
from longtake.plan.search.meshes import Asked
from longtake.plan.search.replicas import assign, replica_counts
from longtake.plan.workload import Workload

ANYTHING: Final = Asked(ring=None, ulysses=None)
_STEADY: Final = 2
"""Times as many blocks as stages after which a pipeline has filled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A way to make a video, and what it takes; or why it cannot be.

    Args:
        strategy: Class name.
        options: Of the strategy.
        cache: The feature cache; other ones make other videos.
        layout: Of each replica; ``None`` where the cache does not fit the schedule.
        data: Number of replicas.
        seconds: Of all requests, as a whole; ``None`` where one is endless.
        first: Seconds until the first frames of the longest one.
        pace: Latent frames per second, once it has settled.
        peak: Bytes on the fullest device.
        idle: Share of all devices' time.
        sent: Bytes between devices, per block.
        refusal: Why it cannot be; "" where it can.
    """

    strategy: str
    options: Mapping[str, Any]
    cache: FeatureCache
    layout: Layout | None = None
    data: int = 1
    seconds: float | None = None
    first: float = 0.0
    pace: float = 0.0
    peak: int = 0
    idle: float = 0.0
    sent: float = 0.0
    refusal: str = ""


def compare(
    workloads: Workloads,
    memory: RunMemory,
    request: Request,
    devices: int,
    own: Workload | None = None,
    requests: Sequence[Request] = (),
) -> list[Choice]:
    """Return every strategy, mesh and feature cache, those that can be first, the fastest first.

    Args:
        workloads: Of the model.
        memory: Of the same.
        request: What is to be made; of several the longest.
        devices: Number of devices; all are used.
        own: What the request is to the model, its operations counted, where only its own feature
            cache is compared; ``None``: it is counted, and every cache.
        requests: All of the run, where there are several, so that there may be replicas.
    """
    every = (NextBlockKV(), SameStepKV(), NoCache()) if own is None else ()
    own = own or workloads.counted(workloads.of(request))
    all_of = [_counted_as(workloads, one, own) for one in requests or (request,)]
    caches: dict[str, FeatureCache] = {type(cache).__name__: cache for cache in (*every, own.cache)}
    found: list[Choice] = []
    for cache in caches.values():
        workload = replace(own, cache=cache)
        try:
            check_method(workload)
        except ConfigurationError as error:
            found.append(Choice(strategy="any", options={}, cache=cache, refusal=str(error)))
            continue
        found += _of_cache(
            workload,
            [replace(one, cache=cache) for one in all_of],
            memory,
            devices,
            starts=request.encodes_frames,
        )
    return sorted(found, key=lambda one: (bool(one.refusal), -one.pace))


def best_of(choices: list[Choice], cache: FeatureCache) -> Choice | None:
    """Return what to run: with the given feature cache if it can be, as others make other videos.

    Of those that take at most 2 % longer than the fastest, as ``choose`` does.

    Args:
        choices: From ``compare``.
        cache: That of the configuration.
    """
    able = [one for one in choices if not one.refusal]
    same = [one for one in able if type(one.cache) is type(cache)] or able
    if not same:
        return None
    fastest = max(one.pace for one in same)

    def rank(one: Choice) -> tuple[int, bool, bool, int, int, float]:
        assert one.layout is not None
        inexact, chunks, stages, seconds = rank_of(one.layout, 1 / one.pace)
        return one.layout.decoders, inexact, chunks, one.data, stages, seconds

    return min((one for one in same if one.pace * CLOSE >= fastest), key=rank)


def _counted_as(workloads: Workloads, request: Request, counted: Workload) -> Workload:
    """Return what a request is to the model, its operations those of another one of its size."""
    workload = workloads.of(request)
    if (workload.height, workload.width) == (counted.height, counted.width):
        return replace(workload, flops=counted.flops)
    return workloads.counted(workload)


@final
class _Timed:
    """Times layouts for one video: of a longer one, its first blocks and the pace after them.

    Args:
        workload: What is made.
        stages: The most that a layout has.
    """

    def __init__(self, workload: Workload, stages: int) -> None:
        self._workload = workload
        first = bounded(workload, max(ENOUGH_BLOCKS, 2 * _STEADY * stages))
        self.whole = first, rundown(first)
        self._half: tuple[Workload, Rundown] | None = None
        if first.latent_frames != workload.latent_frames:  # its pace is that of the second half
            shorter = bounded(first, _blocks(first) // 2)
            self._half = shorter, rundown(shorter)

    def of(self, layout: Layout) -> dict[str, Any]:
        """Return the times of a layout."""
        return _timed(layout, self._workload, self.whole, self._half)


def _of_cache(
    workload: Workload,
    requests: Sequence[Workload],
    memory: RunMemory,
    devices: int,
    *,
    starts: bool,
) -> Iterator[Choice]:
    counts = replica_counts("auto", devices, [one.latent_frames is None for one in requests])
    layouts = [(data, one) for data in counts for one in _layouts(workload, devices // data)]
    deepest = max((layout.mesh.pipe for _, layout in layouts), default=1)
    longest = _Timed(workload, deepest)
    others = {_key(one): _Timed(one, deepest) for one in requests if _key(one) != _key(workload)}
    tasks = longest.whole[1]
    played = Played(tasks.widest, held_frames(workload), tasks.widest_later)
    for data, layout in layouts:
        strategy, options = _named(layout, data)
        held = memory.of(workload, layout, starts=starts, played=played)
        fullest = max(range(layout.size), key=lambda rank: held[rank].peak)
        peak, limit = held[fullest].peak, workload.hardware.memory
        times: dict[str, Any] = {}
        refusal = ""
        if peak > limit:
            refusal = (
                f"needs {peak / 1e9:,.1f} GB on rank {fullest}, where there are {limit / 1e9:,.0f}"
            )
        else:
            times = longest.of(layout)
            if len(requests) > 1 and times["seconds"] is not None:
                known = {_key(workload): times["seconds"]}
                known |= {key: one.of(layout)["seconds"] for key, one in others.items()}
                times |= _of_all(requests, [known[_key(one)] for one in requests], data)
        yield Choice(
            strategy=strategy,
            options=options,
            cache=workload.cache,
            layout=layout,
            data=data,
            peak=peak,
            refusal=refusal,
            **times,
        )


def _key(workload: Workload) -> tuple[object, ...]:
    """Return all that the times of a run's requests depend on."""
    return workload.video, workload.height, workload.width


def _of_all(requests: Sequence[Workload], seconds: Sequence[float], data: int) -> dict[str, Any]:
    """Return the times of several requests, shared out among replicas."""
    makespan = assign(dict(enumerate(seconds)), data).makespan
    assert makespan is not None
    frames = sum(one.latent_frames or 0 for one in requests)
    return {"seconds": makespan, "pace": frames / makespan}


def _layouts(workload: Workload, devices: int) -> Iterator[Layout]:
    """Yield every layout, with none and with one decode rank, or as many as a picture has tiles."""
    for decoders in sorted({0, min(1, most_decoders(devices, workload))}):
        try:
            found = list(candidates(devices - decoders, workload, ANYTHING))
        except ConfigurationError:  # so many devices cannot share it
            continue
        for layout in found:
            flat = layout.mesh.pipe == 1 and layout.mesh.cfg == 1
            if not (flat and len(layout.batches) > 1):  # branches apart on the same devices
                yield replace(layout, decoders=decoders)


def _blocks(workload: Workload) -> int:
    blocks = workload.scheduler.blocks(workload.latent_frames)
    return sum(1 for _ in islice(blocks, 4096))


def _timed(
    layout: Layout,
    workload: Workload,
    whole: tuple[Workload, Rundown],
    half: tuple[Workload, Rundown] | None,
) -> dict[str, Any]:
    """Return times: of a longer video, those of its first blocks and the pace after them."""
    first, tasks = whole
    timed = ring_time(layout, first, tasks)
    assert first.latent_frames is not None
    frames, seconds = first.latent_frames, timed.makespan
    total: float | None = timed.makespan
    if half is not None:
        shorter, fewer = half
        assert shorter.latent_frames is not None
        frames -= shorter.latent_frames
        seconds -= ring_time(layout, shorter, fewer).makespan
        total = None
    if half is not None and workload.latent_frames is not None:
        rest = workload.latent_frames - first.latent_frames
        total = timed.makespan + rest * seconds / frames
        frames, seconds = workload.latent_frames, total
    return {
        "seconds": total,
        "first": timed.first_block,
        "pace": frames / seconds,
        "idle": timed.idle,
        "sent": (sum(timed.sent_bytes) + sum(timed.exchanged_bytes)) / _blocks(first),
    }


def _named(layout: Layout, data: int) -> tuple[str, dict[str, Any]]:
    """Return the strategy that lays a run out so, and its options."""
    mesh = layout.mesh
    degrees = {name: getattr(mesh, name) for name in ("cfg", "ulysses", "ring")}
    decoders = {"decode_devices": layout.decoders, **({"data": data} if data > 1 else {})}
    if mesh.size == 1:
        return "SingleDevice", decoders
    if mesh.pipe == 1:
        return "SequenceParallel", {**degrees, **decoders}
    together = len(layout.batches) == 1
    split = [len(stage) for stage in layout.stages]
    guidance = "together" if together else "apart"
    return "DualParal", {
        "stages": mesh.pipe,
        **degrees,
        "guidance": guidance,
        "split": split,
        **decoders,
    }
