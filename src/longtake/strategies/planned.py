"""Planned strategies: some options are given, the rest of the layout is chosen by simulation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from typing_extensions import override

from longtake.caches import Forward
from longtake.plan.ir.actions import Action
from longtake.plan.layout import Layout
from longtake.plan.search.layouts import choose
from longtake.plan.search.meshes import Asked
from longtake.plan.workload import Workload
from longtake.strategies.base import ParallelStrategy

Degree: TypeAlias = int | Literal["auto"]
"""A degree as the user writes it."""


class PlannedStrategy(ParallelStrategy):
    """States what is given of the layout, and a schedule of actions; the rest follows.

    Of all layouts that have what is given, the one is taken whose actions are done first on a
    simulated clock. A subclass says what is given (``asked``) and what its ranks do, in which
    order (``actions``).
    """

    @abstractmethod
    def asked(self) -> Asked:
        """Return what the user has given of the layout."""

    @abstractmethod
    @override
    def actions(
        self,
        forwards: Iterable[Forward],
        request: int,
        layout: Layout,
        rank: int,
    ) -> Iterator[Action]: ...

    @override
    def layout(self, world_size: int, workload: Workload) -> Layout:
        return choose(world_size, workload, self.clock, self.asked()).best.layout

    @override
    def alternatives(self, world_size: int, workload: Workload) -> list[Layout]:
        choice = choose(world_size, workload, self.clock, self.asked())
        return [candidate.layout for candidate in choice.candidates]


def given(degree: Degree) -> int | None:
    """Return a degree that was given, or ``None`` for one that is to be chosen."""
    return None if degree == "auto" else degree
