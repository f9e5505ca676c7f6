"""Comparison of everything that a number of devices can do for a request: time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

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
        layout: ``None`` where the cache does not fit the schedule.
        seconds: Of the whole video; ``None`` for an endless one.
        first: Seconds until the first frames.
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
) -> list[Choice]:
    """Return every strategy, mesh and feature cache, those that can be first, the fastest first.

    Args:
        workloads: Of the model.
        memory: Of the same.
        request: What is to be made.
        devices: Number of devices; all are used.
        own: What the request is to the model, its operations counted, where only its own feature
            cache is compared; ``None``: it is counted, and every cache.
    """
    every = (NextBlockKV(), SameStepKV(), NoCache()) if own is None else ()
    own = own or workloads.counted(workloads.of(request))
    caches: dict[str, FeatureCache] = {type(cache).__name__: cache for cache in (*every, own.cache)}
    found: list[Choice] = []
    for cache in caches.values():
        workload = replace(own, cache=cache)
        try:
            check_method(workload)
        except ConfigurationError as error:
            found.append(Choice(strategy="any", options={}, cache=cache, refusal=str(error)))
            continue
        found += _of_cache(workload, memory, devices, starts=request.encodes_frames)
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

    def rank(one: Choice) -> tuple[int, bool, bool, int, float]:
        assert one.layout is not None
        return one.layout.decoders, *rank_of(one.layout, 1 / one.pace)

    return min((one for one in same if one.pace * CLOSE >= fastest), key=rank)


def _of_cache(
    workload: Workload, memory: RunMemory, devices: int, *, starts: bool
) -> Iterator[Choice]:
    layouts = list(_layouts(workload, devices))
    deepest = max((layout.mesh.pipe for layout in layouts), default=1)
    first = bounded(workload, max(ENOUGH_BLOCKS, 2 * _STEADY * deepest))
    whole = first, rundown(first)
    half = None
    if first.latent_frames != workload.latent_frames:  # its pace is that of the second half
        shorter = bounded(first, _blocks(first) // 2)
        half = shorter, rundown(shorter)
    played = Played(whole[1].widest, held_frames(workload))
    for layout in layouts:
        strategy, options = _named(layout)
        held = memory.of(workload, layout, starts=starts, played=played)
        fullest = max(range(layout.size), key=lambda rank: held[rank].peak)
        peak, limit = held[fullest].peak, workload.hardware.memory
        refusal = ""
        if peak > limit:
            refusal = (
                f"needs {peak / 1e9:,.1f} GB on rank {fullest}, where there are {limit / 1e9:,.0f}"
            )
        yield Choice(
            strategy=strategy,
            options=options,
            cache=workload.cache,
            layout=layout,
            peak=peak,
            refusal=refusal,
            **({} if refusal else _timed(layout, workload, whole, half)),
        )


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


def _named(layout: Layout) -> tuple[str, dict[str, Any]]:
    """Return the strategy that lays a run out so, and its options."""
    mesh = layout.mesh
    degrees = {name: getattr(mesh, name) for name in ("cfg", "ulysses", "ring")}
    decoders = {"decode_devices": layout.decoders}
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
