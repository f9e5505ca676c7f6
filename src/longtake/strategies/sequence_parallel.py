"""Sequence parallelism: one task's tokens over devices, exactly (xDiT's USP, PipeDiT's PipeSP)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, final

from typing_extensions import override

from longtake.plan.choose import Choice, choose
from longtake.plan.job import Job
from longtake.plan.layout import Layout
from longtake.plan.meshes import Asked
from longtake.strategies.base import ParallelStrategy
from longtake.strategies.pipeline import PipelineRank
from longtake.strategies.work import Denoising, Progress


@final
class SequenceParallel(ParallelStrategy):
    """Split each task's tokens over devices; every device holds all layers (xDiT, USP).

    Right for clips up to the model's native length (``FullSequence``), where only one block is in
    flight, and for any schedule. Only self-attention is exchanged: cross-attention and whatever
    is done token by token is local. Tokens and heads need not divide the degrees. The result is
    the serial run's to rounding (1e-5, relative, in fp32).

    Args:
        ulysses: Devices that exchange tokens for heads; at most the number of heads.
        ring: Devices among which keys and values go round.
        cfg: 2 gives each guidance branch devices of its own.
        overlap: PipeSP: heads are attended in so many parts, the result of one travelling while
            the next is computed. ``auto`` does so where it is predicted to win.
    """

    def __init__(
        self,
        ulysses: int | Literal["auto"] = "auto",
        ring: int | Literal["auto"] = "auto",
        cfg: int | Literal["auto"] = "auto",
        overlap: int | Literal["auto"] = 1,
    ) -> None:
        self.ulysses = ulysses
        self.ring = ring
        self.cfg = cfg
        self.overlap = overlap

    @override
    def layout(self, world_size: int, job: Job) -> Layout:
        return self._choose(world_size, job).best.layout

    @override
    def alternatives(self, world_size: int, job: Job) -> list[Layout]:
        return [candidate.layout for candidate in self._choose(world_size, job).candidates]

    def _choose(self, world_size: int, job: Job) -> Choice:
        asked = Asked(
            stages=1,
            cfg=_given(self.cfg),
            ring=_given(self.ring),
            ulysses=_given(self.ulysses),
            together=True,
            chunks=_given(self.overlap),
        )
        return choose(world_size, job, asked)

    @override
    def run(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        return PipelineRank(work, layout, rank).run()


def _given(degree: int | Literal["auto"]) -> int | None:
    return None if degree == "auto" else degree
