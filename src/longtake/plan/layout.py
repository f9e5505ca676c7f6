"""Layout: which rank holds which layers and runs which guidance branches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Self

from longtake.plan.mesh import Axis, Mesh


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a strategy decides before any weight is read. Every rank derives the same one.

    Args:
        mesh: Degrees of all axes.
        stages: Consecutive layers of each coordinate of the pipe axis, together all of them.
        batches: Guidance branches that run as one batch, together all of them in order. Several
            batches on one coordinate of the cfg axis are micro-batchs, run one after another.
        chunks: Parts in which a rank's heads are attended under Ulysses, the result of one
            travelling while the next is computed (PipeSP); 1: all at once.
        decoders: Ranks behind those of the mesh that decode; 0: the output rank does.
        tiled: Whether they share every video's tiles; otherwise videos take turns.
        aco: Whether they attend some heads while they have nothing to decode.
    """

    mesh: Mesh
    stages: tuple[range, ...]
    batches: tuple[range, ...]
    chunks: int = 1
    decoders: int = 0
    tiled: bool = False
    aco: bool = False

    def __post_init__(self) -> None:
        if len(self.stages) != self.mesh.pipe:
            raise ValueError(f"{len(self.stages)} stages on a pipe axis of {self.mesh.pipe}")
        if len(self.batches) % self.mesh.cfg:
            raise ValueError(f"{len(self.batches)} batches on a cfg axis of {self.mesh.cfg}")

    @classmethod
    def serial(cls, layers: int, branches: int) -> Self:
        """Return the layout of one rank that holds everything and runs branches as one batch."""
        return cls(mesh=Mesh(), stages=(range(layers),), batches=(range(branches),))

    @property
    def size(self) -> int:
        """Number of ranks, those that decode included."""
        return self.mesh.size + self.decoders

    @property
    def output_rank(self) -> int:
        """The rank that holds the queue, takes the sampler steps and yields the blocks."""
        return 0

    def decode_ranks(self, video: int) -> list[int]:
        """Return the decode ranks of the run's ``video``-th video; the first one gives its frames.

        Whole pictures are decoded by one rank, as a VAE carries state from frame to frame.
        """
        ranks = range(self.mesh.size, self.size)
        return list(ranks if self.tiled else ranks[video % max(1, self.decoders) :][:1])

    def helper(self, rank: int) -> int:
        """Return the decode rank that attends heads of a rank of the mesh."""
        return self.mesh.size + rank % self.decoders

    def layers(self, rank: int) -> range:
        """Return the layers that a rank holds, so that only those are read from disk."""
        if self.mesh.size <= rank < self.size:
            return range(0)
        return self.stages[self.mesh.coordinate(rank)[Axis.PIPE]]

    @property
    def sequence(self) -> int:
        """Ranks that share a window's tokens: ring times Ulysses."""
        return self.mesh.ring * self.mesh.ulysses

    def rank(self, cfg: int = 0, pipe: int = 0, sequence: int = 0) -> int:
        """Return the rank of a stage of a coordinate of the cfg axis that has some tokens.

        Args:
            cfg: Coordinate on the cfg axis.
            pipe: Stage.
            sequence: Place among the ranks that share the tokens, in the order of the tokens:
                the ring's coordinate is the outer one.
        """
        ring, ulysses = divmod(sequence, self.mesh.ulysses)
        return self.mesh.rank(cfg=cfg, pipe=pipe, ring=ring, ulysses=ulysses)

    def sequence_index(self, rank: int) -> int:
        """Return a rank's place among the ranks that share its tokens."""
        coordinate = self.mesh.coordinate(rank)
        return coordinate[Axis.RING] * self.mesh.ulysses + coordinate[Axis.ULYSSES]

    def ulysses_ranks(self, rank: int) -> tuple[int, ...]:
        """Return the ranks with which a rank exchanges tokens for heads, itself included."""
        first = rank - self.mesh.coordinate(rank)[Axis.ULYSSES]
        return tuple(range(first, first + self.mesh.ulysses))

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """Ranks that exchange tokens, heads, keys or values, in a fixed order; none of one rank.

        For each stage of each coordinate of the cfg axis: all ranks that share its tokens, its
        rings, its Ulysses groups.
        """
        ring, ulysses = self.mesh.ring, self.mesh.ulysses
        found: dict[tuple[int, ...], None] = {}
        for cfg, pipe in product(range(self.mesh.cfg), range(self.mesh.pipe)):
            ranks = [self.rank(cfg, pipe, index) for index in range(self.sequence)]
            parts = [ranks, *(ranks[u::ulysses] for u in range(ulysses))]
            parts += [ranks[r * ulysses : (r + 1) * ulysses] for r in range(ring)]
            found.update({tuple(part): None for part in parts if len(part) > 1})
        return list(found)

    @property
    def first_ranks(self) -> tuple[int, ...]:
        """The ranks of the first stage, those of the first coordinate of the cfg axis first."""
        places = product(range(self.mesh.cfg), range(self.sequence))
        return tuple(self.rank(cfg, 0, index) for cfg, index in places)

    @property
    def deciding_groups(self) -> list[tuple[int, ...]]:
        """Ranks that decide together whether layers are reused; none for one rank."""
        return [self.first_ranks] if len(self.first_ranks) > 1 else []

    def batches_at(self, cfg: int) -> tuple[range, ...]:
        """Return the batches that a coordinate of the cfg axis runs, in order."""
        share = len(self.batches) // self.mesh.cfg
        return self.batches[cfg * share : (cfg + 1) * share]

    @property
    def combine_rank(self) -> int:
        """The last stage of the first coordinate of the cfg axis: it joins the branches."""
        return self.rank(pipe=self.mesh.pipe - 1)
