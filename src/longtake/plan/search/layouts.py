"""Layout search: the fastest layout of a number of devices in a simulation of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Final

from longtake.plan.cost.simulator import ENOUGH_BLOCKS, Clock, Simulation, bounded
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.search.in_flight import of_workload
from longtake.plan.search.meshes import Asked, meshes
from longtake.plan.search.splits import (
    Means,
    check_split,
    split_layers,
    split_layers_for_decoding,
    stages_of,
)
from longtake.plan.workload import Workload

CLOSE: Final = 1.02
"""Makespans this near to the shortest are as good: the hardware's speeds are not known better."""


FEW_BLOCKS: Final = 4
"""Blocks that layouts without stages are weighed on."""
WEIGHTS_SHARE: Final = 0.9
"""Of a device's memory that the layers may take; the rest is for windows, caches and the VAE."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible layout.

    Args:
        layout: Which rank holds and runs what.
        simulation: What the run, or its first blocks, would take.
    """

    layout: Layout
    simulation: Simulation

    @property
    def is_exact(self) -> bool:
        """Whether a rank's operands are those of the serial run, so that it is bit-equal to it."""
        return is_exact(self.layout)


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and from what.

    Args:
        best: The chosen one.
        candidates: All that were weighed.
    """

    best: Candidate
    candidates: tuple[Candidate, ...]


ANYTHING: Final = Asked()
"""Stages and guidance to be chosen, tokens not shared."""


def choose(world_size: int, workload: Workload, clock: Clock, asked: Asked = ANYTHING) -> Choice:
    """Simulate every candidate and return the best.

    Layouts whose weights do not fit into a device are left out, unless none fits. Of those that
    take at most 2 % longer than the fastest, one that is bit-equal to the serial run is best;
    then one without PipeSP; then one of more stages, since each holds fewer weights.

    Args:
        world_size: Number of devices; all are used.
        workload: What is to be made, and on what.
        clock: The strategy's.
        asked: What is given.

    Raises:
        ConfigurationError: What is given is impossible; names what is possible.
    """
    layouts = list(candidates(world_size, workload, asked))
    layouts = [layout for layout in layouts if _fits(layout, workload)] or layouts
    deepest = max(layout.mesh.pipe for layout in layouts)
    # Without stages nothing fills and drains, and every block is like the others.
    workload = bounded(workload, max(ENOUGH_BLOCKS, 2 * deepest) if deepest > 1 else FEW_BLOCKS)
    time = clock(workload)
    weighed = tuple(Candidate(layout, time(layout)) for layout in layouts)
    enough = CLOSE * min(candidate.simulation.makespan for candidate in weighed)
    best = min(
        (candidate for candidate in weighed if candidate.simulation.makespan <= enough),
        key=lambda one: rank_of(one.layout, one.simulation.makespan),
    )
    return Choice(best, weighed)


def is_exact(layout: Layout) -> bool:
    """Return whether a rank's operands are those of the serial run: it is bit-equal to it."""
    return len(layout.batches) == 1 and layout.sequence == 1


def rank_of(layout: Layout, seconds: float) -> tuple[bool, bool, int, float]:
    """Return what is least for the best of layouts that are as fast; see :func:`choose`."""
    return (not is_exact(layout), layout.chunks > 1, -layout.mesh.pipe, seconds)


def candidates(world_size: int, workload: Workload, asked: Asked = ANYTHING) -> Iterator[Layout]:
    """Yield every layout that uses all devices and has what is given; see :func:`choose`.

    Raises:
        ConfigurationError: There is none; names what is possible.
    """
    if asked.split is not None and asked.stages is None:
        asked = replace(asked, stages=len(asked.split))
    found, means = meshes(world_size, workload, asked), Means.of(workload)
    for mesh in found:
        if asked.split is not None:
            check_split(asked.split, workload.spec.layers, mesh.pipe)
        for batches, chunks in product(
            _batches(mesh, workload.branches, asked.together), _chunks(mesh, workload, asked.chunks)
        ):
            splits = (
                [stages_of(asked.split)] if asked.split else _splits(workload, mesh, batches, means)
            )
            for stages in splits:
                yield Layout(mesh=mesh, stages=stages, batches=batches, chunks=chunks)


def choose_chunks(layout: Layout, workload: Workload, clock: Clock) -> Layout:
    """Return a layout with the number of chunks that is fastest; 1 where that is as good.

    Args:
        layout: Which rank holds and runs what.
        workload: What is to be made; its hardware says how fast the links are.
        clock: The strategy's.
    """
    workload = bounded(workload, FEW_BLOCKS)
    time = clock(workload)
    weighed = [replace(layout, chunks=chunks) for chunks in _chunks(layout.mesh, workload, None)]
    makespans = [time(one).makespan for one in weighed]
    if makespans[0] <= CLOSE * min(makespans):
        return weighed[0]
    return weighed[makespans.index(min(makespans))]


def warnings_of(
    workload: Workload, layout: Layout, simulation: Simulation, clock: Clock
) -> list[str]:
    """Return what the user might want to change: a sentence each, with numbers and a remedy.

    Args:
        workload: What is to be made, and on what.
        layout: Which rank holds and runs what.
        simulation: What the run would take with it.
        clock: The strategy's.
    """
    stages = layout.mesh.pipe
    in_flight = of_workload(workload, stages) if stages > 1 else 1.0
    if stages < in_flight + 0.5:  # as many, but for filling and draining
        return []
    few = workload.blocks_in_flight == workload.steps
    why = f", one block for each of the {workload.steps} steps" if few else ""
    degrees = Asked(ring=layout.mesh.ring, ulysses=layout.mesh.ulysses)
    weighed = choose(layout.mesh.size, workload, clock, degrees).candidates
    least = min(weighed, key=lambda one: one.simulation.idle)
    remedy = "a longer video, more steps, a smaller stride or fewer devices would help"
    if least.simulation.idle < simulation.idle - 0.01:
        remedy = f"{_words(least.layout)} would idle {least.simulation.idle:.0%}"
    return [
        f"{stages} pipeline stages have {in_flight:.1f} tasks in flight on average{why}, so "
        f"devices will idle about {simulation.idle:.0%} of the time; {remedy}."
    ]


def _batches(mesh: Mesh, branches: int, together: bool | None) -> Iterator[tuple[range, ...]]:
    apart = _stretches(branches, branches)
    if mesh.cfg > 1 or branches == 1:
        yield _stretches(branches, mesh.cfg)
        return
    if together is not False:
        yield (range(branches),)
    if together is not True:
        yield apart


def _stretches(branches: int, parts: int) -> tuple[range, ...]:
    """Return consecutive branches in parts that differ by one at most."""
    edges = [branches * part // parts for part in range(parts + 1)]
    return tuple(range(start, stop) for start, stop in pairwise(edges))


def _chunks(mesh: Mesh, workload: Workload, asked: int | None) -> list[int]:
    if asked is not None:
        return [asked]
    least = workload.spec.heads // mesh.ulysses
    return [chunks for chunks in (1, 2, 4) if chunks == 1 or (mesh.ulysses > 1 and chunks <= least)]


def _fits(layout: Layout, workload: Workload) -> bool:
    most = max(map(len, layout.stages))
    return most * workload.layer_bytes <= WEIGHTS_SHARE * workload.hardware.memory


def _splits(
    workload: Workload, mesh: Mesh, batches: Sequence[range], means: Means
) -> list[tuple[range, ...]]:
    share = batches[: len(batches) // mesh.cfg]
    even = split_layers(workload, mesh.pipe, share, means)
    uneven = split_layers_for_decoding(workload, mesh.pipe, share, means)
    return [even] if uneven == even else [even, uneven]


def _words(layout: Layout) -> str:
    words = f"stages {layout.mesh.pipe} with cfg {layout.mesh.cfg}"
    if layout.mesh.cfg == 1 and len(layout.batches) > 1:
        words += " and guidance apart"
    return words
