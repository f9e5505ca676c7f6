"""What strategies share whose layout is chosen by simulation and whose ranks run a pipeline."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal, TypeAlias

from typing_extensions import override

from longtake.plan.layout import Layout
from longtake.plan.search.layouts import choose
from longtake.plan.search.meshes import Asked
from longtake.plan.workload import Workload
from longtake.strategies.base import ParallelStrategy
from longtake.strategies.runtime.denoising import Denoising, Progress
from longtake.strategies.runtime.executor import Executor

Degree: TypeAlias = int | Literal["auto"]
"""A degree as the user writes it."""


class PlannedStrategy(ParallelStrategy):
    """Takes the best layout of those that have what was asked for. Subclasses say what that is."""

    @abstractmethod
    def asked(self) -> Asked:
        """Return what the user has given of the layout."""

    @override
    def layout(self, world_size: int, workload: Workload) -> Layout:
        return choose(world_size, workload, self.asked()).best.layout

    @override
    def alternatives(self, world_size: int, workload: Workload) -> list[Layout]:
        choice = choose(world_size, workload, self.asked())
        return [candidate.layout for candidate in choice.candidates]

    @override
    def run(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        return Executor(work, layout, rank).run()


def given(degree: Degree) -> int | None:
    """Return a degree that was given, or ``None`` for one that is to be chosen."""
    return None if degree == "auto" else degree
