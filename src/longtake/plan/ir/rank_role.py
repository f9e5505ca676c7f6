"""Rank role: a rank's share of the work, and with whom it exchanges messages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from longtake.plan.layout import Layout
from longtake.plan.mesh import Axis


def other_first_ranks(layout: Layout) -> list[int]:
    """Return the ranks of the first stage that the output rank sends windows to."""
    ranks = [
        layout.rank(cfg, 0, index)
        for cfg, index in product(range(layout.mesh.cfg), range(layout.sequence))
    ]
    return [rank for rank in ranks if rank != layout.output_rank]


@dataclass(frozen=True, slots=True)
class RankRole:
    """A rank's share of the work, and the ranks that it exchanges messages with.

    Args:
        is_first: Whether it embeds.
        is_last: Whether it has the last layers.
        predicts: Whether it predicts, for all that share the last stage's tokens.
        combines: Whether it joins the branches.
        layers: Its layers.
        batches: Guidance branches that it runs, each as one batch.
        branches: All guidance branches.
        output: The output rank.
        combine: The rank that joins the branches.
        before: The rank of the stage before, with the same branches and tokens.
        after: That of the stage after.
        other_firsts: Other ranks that embed.
        other_predictions: Ranks that predict other branches, with their batches.
    """

    is_first: bool
    is_last: bool
    predicts: bool
    combines: bool
    layers: range
    batches: tuple[range, ...]
    branches: range
    output: int
    combine: int
    before: int | None
    after: int | None
    other_firsts: tuple[int, ...]
    other_predictions: tuple[tuple[int, range], ...]

    @staticmethod
    def of(layout: Layout, rank: int) -> RankRole:
        """Return a rank's place in a layout."""
        mesh, coordinate = layout.mesh, layout.mesh.coordinate(rank)
        cfg, stage = coordinate[Axis.CFG], coordinate[Axis.PIPE]
        sequence, last = layout.sequence_index(rank), mesh.pipe - 1
        return RankRole(
            is_first=stage == 0,
            is_last=stage == last,
            predicts=stage == last and sequence == 0,
            combines=rank == layout.combine_rank,
            layers=layout.layers(rank),
            batches=layout.batches_at(cfg),
            branches=range(layout.batches[-1].stop),
            output=layout.output_rank,
            combine=layout.combine_rank,
            before=layout.rank(cfg, stage - 1, sequence) if stage else None,
            after=layout.rank(cfg, stage + 1, sequence) if stage < last else None,
            other_firsts=tuple(other_first_ranks(layout)),
            other_predictions=tuple(
                (layout.rank(other, last), batch)
                for other in range(1, mesh.cfg)
                for batch in layout.batches_at(other)
            ),
        )
