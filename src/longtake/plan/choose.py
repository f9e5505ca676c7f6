"""Which layout a number of devices is used in: the fastest in a simulation of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from longtake.errors import ConfigurationError
from longtake.plan.job import Job
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.simulate import ENOUGH_BLOCKS, Simulation, bounded, simulate
from longtake.plan.split import check_split, split_layers, split_layers_for_decoding, stages_of

CLOSE: Final = 1.02
"""Makespans this near to the shortest are as good: the hardware's speeds are not known better."""


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
        """Whether all branches run as one batch: bit-equal to the serial run."""
        return len(self.layout.batches) == 1


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and from what.

    Args:
        best: The chosen one.
        candidates: All that were weighed.
    """

    best: Candidate
    candidates: tuple[Candidate, ...]


def choose(
    world_size: int,
    job: Job,
    *,
    stages: int | None = None,
    cfg: int | None = None,
    together: bool | None = None,
    split: Sequence[int] | None = None,
) -> Choice:
    """Simulate every candidate and return the best.

    Of those that take at most 2 % longer than the fastest, one that runs all branches as one
    batch is best, since its result is bit-equal to the serial run; then one of more stages, since
    each holds fewer weights.

    Args:
        world_size: Number of devices; all are used.
        job: What is to be made, and on what.
        stages: Pipeline stages, if they are given.
        cfg: Degree of the guidance axis, if it is given.
        together: Whether guidance branches on the same devices run as one batch, if it is given.
        split: Layers of each stage, if they are given.

    Raises:
        ConfigurationError: What is given is impossible; names what is possible.
    """
    layouts = list(
        candidates(world_size, job, stages=stages, cfg=cfg, together=together, split=split)
    )
    job = bounded(job, max(ENOUGH_BLOCKS, 2 * max(layout.mesh.pipe for layout in layouts)))
    weighed = tuple(Candidate(layout, simulate(layout, job)) for layout in layouts)
    enough = CLOSE * min(candidate.simulation.makespan for candidate in weighed)
    best = min(
        (candidate for candidate in weighed if candidate.simulation.makespan <= enough),
        key=lambda one: (not one.is_exact, -one.layout.mesh.pipe, one.simulation.makespan),
    )
    return Choice(best, weighed)


def candidates(
    world_size: int,
    job: Job,
    *,
    stages: int | None = None,
    cfg: int | None = None,
    together: bool | None = None,
    split: Sequence[int] | None = None,
) -> Iterator[Layout]:
    """Yield every layout that uses all devices and has what is given; see :func:`choose`.

    Raises:
        ConfigurationError: There is none; names what is possible.
    """
    if split is not None and stages is None:
        stages = len(split)
    for mesh in _meshes(world_size, job, stages, cfg):
        if split is not None:
            check_split(split, job.spec.layers, mesh.pipe)
        for batches in _batches(mesh, job.branches, together):
            for layers in _splits(job, mesh, batches) if split is None else [stages_of(split)]:
                yield Layout(mesh=mesh, stages=layers, batches=batches)


def warnings_of(job: Job, layout: Layout, simulation: Simulation) -> list[str]:
    """Return what the user might want to change: a sentence each, with numbers and a remedy.

    Args:
        job: What is to be made, and on what.
        layout: Which rank holds and runs what.
        simulation: What the run would take with it.
    """
    stages, in_flight = layout.mesh.pipe, job.blocks_in_flight
    if stages <= in_flight:
        return []
    why = f", one for each of the {job.steps} steps" if in_flight == job.steps else ""
    least = min(choose(layout.mesh.size, job).candidates, key=lambda one: one.simulation.idle)
    remedy = "a longer video, more steps, a smaller stride or fewer devices would help"
    if least.simulation.idle < simulation.idle - 0.01:
        remedy = f"{_words(least.layout)} would idle {least.simulation.idle:.0%}"
    return [
        f"{stages} pipeline stages share at most {in_flight} block{'s' * (in_flight != 1)} in "
        f"flight{why}, so devices will idle about {simulation.idle:.0%} of the time; {remedy}."
    ]


def _meshes(world_size: int, job: Job, stages: int | None, cfg: int | None) -> list[Mesh]:
    layers, degrees = job.spec.layers, range(1, job.branches + 1)
    possible = [
        Mesh(cfg=degree, pipe=world_size // degree)
        for degree in degrees
        if world_size % degree == 0 and 1 <= world_size // degree <= layers
    ]
    if not possible:
        odd = f" or an even number up to {2 * layers}" if job.branches == 2 else ""
        raise ConfigurationError(
            f"{world_size} devices cannot share the {layers} layers of {job.spec.name}, at least "
            f"one each; use 1 to {layers} devices{odd}."
        )
    fitting = [mesh for mesh in possible if stages in (None, mesh.pipe) and cfg in (None, mesh.cfg)]
    if not fitting:
        asked = [f"{name} {n}" for name, n in (("stages", stages), ("cfg", cfg)) if n is not None]
        choices = [f"stages {mesh.pipe} with cfg {mesh.cfg}" for mesh in possible]
        guidance = "" if job.branches == 2 else " (cfg 2 needs a guidance_scale above 1)"
        raise ConfigurationError(
            f"{' with '.join(asked)} is impossible on {world_size} devices, which are stages times "
            f"cfg, and {layers} layers; possible: {' or '.join(choices)}{guidance}."
        )
    return fitting


def _batches(mesh: Mesh, branches: int, together: bool | None) -> Iterator[tuple[range, ...]]:
    apart = tuple(range(branch, branch + 1) for branch in range(branches))
    if mesh.cfg > 1 or branches == 1:
        yield apart  # one branch each: there is nothing to put together
        return
    if together is not False:
        yield (range(branches),)
    if together is not True:
        yield apart


def _splits(job: Job, mesh: Mesh, batches: Sequence[range]) -> list[tuple[range, ...]]:
    share = batches[: len(batches) // mesh.cfg]
    even = split_layers(job, mesh.pipe, share)
    uneven = split_layers_for_decoding(job, mesh.pipe, share)
    return [even] if uneven == even else [even, uneven]


def _words(layout: Layout) -> str:
    words = f"stages {layout.mesh.pipe} with cfg {layout.mesh.cfg}"
    if layout.mesh.cfg == 1 and len(layout.batches) > 1:
        words += " and guidance apart"
    return words
