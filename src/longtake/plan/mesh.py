"""Device mesh as data: axes, degrees and coordinates, without any process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Axis(StrEnum):
    """The mesh's axes, outer to inner. Size-1 axes are kept, so every name resolves."""

    DATA = "data"
    """Independent requests."""
    CFG = "cfg"
    """Guidance branches."""
    PIPE = "pipe"
    """Stages: consecutive layers."""
    RING = "ring"
    """Ring attention: tokens, keys and values rotate."""
    ULYSSES = "ulysses"
    """Ulysses attention: tokens, heads exchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """Degrees of all axes.

    Args:
        data: Degree of the data axis.
        cfg: Degree of the guidance axis.
        pipe: Degree of the pipeline axis.
        ring: Degree of the ring axis.
        ulysses: Degree of the Ulysses axis.
    """

    data: int = 1
    cfg: int = 1
    pipe: int = 1
    ring: int = 1
    ulysses: int = 1

    @property
    def degrees(self) -> tuple[int, ...]:
        """Degrees, outer to inner."""
        return (self.data, self.cfg, self.pipe, self.ring, self.ulysses)

    @property
    def size(self) -> int:
        """Number of ranks."""
        return math.prod(self.degrees)

    def coordinate(self, rank: int) -> dict[Axis, int]:
        """Return the coordinate of a global rank on every axis."""
        if not 0 <= rank < self.size:
            raise ValueError(f"rank {rank} is not on a mesh of {self.size} ranks")
        coordinates: dict[Axis, int] = {}
        for axis, degree in reversed(list(zip(Axis, self.degrees, strict=True))):
            rank, coordinates[axis] = divmod(rank, degree)
        return {axis: coordinates[axis] for axis in Axis}

    def rank(self, **coordinate: int) -> int:
        """Return the global rank at a coordinate; axes that are not named are at 0.

        Raises:
            ValueError: A coordinate is not on its axis.
        """
        rank = 0
        for axis, degree in zip(Axis, self.degrees, strict=True):
            index = coordinate.pop(axis.value, 0)
            if not 0 <= index < degree:
                raise ValueError(f"{axis.value} {index} is not on an axis of {degree}")
            rank = rank * degree + index
        if coordinate:
            raise ValueError(f"there is no axis {', '.join(coordinate)}")
        return rank
