"""What strategies share whose layout is chosen by simulation and whose ranks run a pipeline."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal, TypeAlias

from typing_extensions import override

from longtake.plan.layout import Layout
from longtake.plan.search.layouts import choose
from longtake.plan.search.meshes import Asked
from longtake.plan.workload import Job
from longtake.strategies.base import ParallelStrategy
from longtake.strategies.runtime.denoising import Denoising, Progress
from longtake.strategies.runtime.executor import PipelineRank

Degree: TypeAlias = int | Literal["auto"]
"""A degree as the user writes it."""


class ChosenStrategy(ParallelStrategy):
    """Takes the best layout of those that have what was asked for. Subclasses say what that is."""

    @abstractmethod
    def asked(self) -> Asked:
        """Return what the user has given of the layout."""

    @override
    def layout(self, world_size: int, job: Job) -> Layout:
        return choose(world_size, job, self.asked()).best.layout

    @override
    def alternatives(self, world_size: int, job: Job) -> list[Layout]:
        choice = choose(world_size, job, self.asked())
        return [candidate.layout for candidate in choice.candidates]

    @override
    def run(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        return PipelineRank(work, layout, rank).run()


def given(degree: Degree) -> int | None:
    """Return a degree that was given, or ``None`` for one that is to be chosen."""
    return None if degree == "auto" else degree
