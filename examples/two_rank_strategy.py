"""A strategy of your own on two devices: tasks in lockstep, so that little is held at once.

``DualParal`` begins up to four tasks per device before it takes a result; here at most one waits
while the next is computed. In YAML: ``trainer.strategy: {class_path: two_rank_strategy.Lockstep}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

from typing_extensions import override

from longtake.api import (
    Action,
    ConfigurationError,
    Forward,
    Layout,
    Mesh,
    ParallelStrategy,
    RankRole,
    TaskActions,
    Workload,
    post_ahead,
)


@final
class Lockstep(ParallelStrategy):
    """Run the first half of the layers on one device and the second half on another.

    Args:
        first_layers: Layers of the first device; half of them when left out.
    """

    def __init__(self, first_layers: int | None = None) -> None:
        self.first_layers = first_layers

    @override
    def layout(self, world_size: int, workload: Workload) -> Layout:
        if world_size != 2:
            raise ConfigurationError(f"Lockstep runs on 2 devices, not on {world_size}.")
        layers = workload.spec.layers
        first = layers // 2 if self.first_layers is None else self.first_layers
        if not 0 < first < layers:
            raise ConfigurationError(
                f"first_layers is {first} of {layers} layers; each device has at least 1: choose "
                f"1 to {layers - 1}."
            )
        stages = (range(first), range(first, layers))
        return Layout(mesh=Mesh(pipe=2), stages=stages, batches=(range(workload.branches),))

    @override
    def actions(
        self,
        forwards: Iterable[Forward],
        request: int,
        layout: Layout,
        rank: int,
    ) -> Iterator[Action]:
        here = RankRole.of(layout, rank)
        ours = (TaskActions(forward, here) for forward in forwards)
        if rank == layout.output_rank:
            return _first(ours, here)
        return post_ahead(_second(ours, here))


def _first(tasks: Iterable[TaskActions], here: RankRole) -> Iterator[Action]:
    begun: TaskActions | None = None
    for task in tasks:
        # What the window sees must be there; else the result before is taken after the next begins.
        if begun is not None and task.waits_for(begun):
            yield from begun.advance()
            begun = None
        yield from task.open()
        yield from task.post_result()
        yield from task.compute(here.branches)
        if begun is not None:
            yield from begun.advance()
        begun = task
    if begun is not None:
        yield from begun.advance()


def _second(tasks: Iterable[TaskActions], here: RankRole) -> Iterator[Action]:
    for task in tasks:
        yield from task.compute(here.branches)
        yield from task.combine()
