"""Meshes that a number of devices can be, and what to say when none is what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

from longtake.errors import ConfigurationError
from longtake.plan.mesh import Mesh
from longtake.plan.workload import Workload

_NAMED: Final = 8
"""Possible meshes that an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is given of a layout; ``None`` is to be chosen.

    Args:
        stages: Pipeline stages.
        cfg: Degree of the guidance axis.
        ring: Degree of the ring axis.
        ulysses: Degree of the Ulysses axis.
        together: Whether guidance branches on the same devices run as one batch.
        split: Layers of each stage.
        chunks: Parts in which heads are attended under Ulysses (PipeSP).
    """

    stages: int | None = None
    cfg: int | None = None
    ring: int | None = 1
    ulysses: int | None = 1
    together: bool | None = None
    split: Sequence[int] | None = None
    chunks: int | None = 1


def meshes(world_size: int, workload: Workload, asked: Asked) -> list[Mesh]:
    """Return every mesh of all devices that has what is given.

    The guidance axis has at most one coordinate per branch, the pipe axis one per layer, the
    Ulysses axis one per head.

    Args:
        world_size: Number of devices.
        workload: What is to be made.
        asked: What is given.

    Raises:
        ConfigurationError: There is none; names what is possible.
    """
    possible = _possible(world_size, workload)
    fitting = [mesh for mesh in possible if not _differing(mesh, asked)]
    if fitting:
        return fitting
    raise ConfigurationError(_refusal(world_size, workload, asked, possible))


def _refusal(world_size: int, workload: Workload, asked: Asked, possible: list[Mesh]) -> str:
    spec, ring, ulysses = workload.spec, asked.ring or 1, asked.ulysses or 1
    # The nearest are those that differ in the fewest degrees.
    nearest = sorted(possible, key=lambda mesh: _differing(mesh, asked))[:_NAMED]
    choices = " or ".join(_words(mesh) for mesh in nearest)
    given = {
        "stages": asked.stages,
        "cfg": asked.cfg,
        "ring": ring if ring > 1 else None,
        "ulysses": ulysses if ulysses > 1 else None,
    }
    words = [f"{name} {degree}" for name, degree in given.items() if degree is not None]
    if not words:
        odd = f" or an even number up to {2 * spec.layers}" if workload.branches == 2 else ""
        shared = f", or share tokens: {choices}" if choices else ""
        return (
            f"{world_size} devices cannot share the {spec.layers} layers of {spec.name}, at least "
            f"one each; use 1 to {spec.layers} devices{odd}{shared}."
        )
    guidance = "" if workload.branches == 2 else " (cfg 2 needs a guidance_scale above 1)"
    if ring > 1 and spec.sparse == "chosen":
        guidance += "; its queries choose among all keys (nabla), so ring is 1: use ulysses"
    return (
        f"{' with '.join(words)} is impossible on {world_size} devices, which are stages times cfg "
        f"times ring times ulysses, with {spec.layers} layers and {spec.heads} heads; possible: "
        f"{choices or 'another number of devices'}{guidance}."
    )


def _possible(world_size: int, workload: Workload) -> list[Mesh]:
    found = []
    degrees = [degree for degree in range(1, world_size + 1) if world_size % degree == 0]
    for cfg, ring, ulysses in product(degrees, degrees, degrees):
        pipe, rest = divmod(world_size, cfg * ring * ulysses)
        if (
            rest
            or cfg > workload.branches
            or ulysses > workload.spec.heads
            or (ring > 1 and workload.spec.sparse == "chosen")
            or not 0 < pipe <= workload.spec.layers
        ):
            continue
        found.append(Mesh(cfg=cfg, pipe=pipe, ring=ring, ulysses=ulysses))
    return found


def _differing(mesh: Mesh, asked: Asked) -> int:
    pairs = (
        (asked.stages, mesh.pipe),
        (asked.cfg, mesh.cfg),
        (asked.ring, mesh.ring),
        (asked.ulysses, mesh.ulysses),
    )
    return sum(given is not None and given != degree for given, degree in pairs)


def _words(mesh: Mesh) -> str:
    words = f"stages {mesh.pipe} with cfg {mesh.cfg}"
    words += f" with ring {mesh.ring}" * (mesh.ring > 1)
    return words + f" with ulysses {mesh.ulysses}" * (mesh.ulysses > 1)
