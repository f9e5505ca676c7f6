"""Plans that are run as written: another strategy's layout, with the actions of a plan file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

from typing_extensions import override

from longtake.caches import Forward
from longtake.comm.communicator import Communicator
from longtake.errors import ConfigurationError
from longtake.plan.check.validator import validate
from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import (
    Action,
    Collect,
    Compute,
    Decide,
    Decode,
    Finish,
    Kind,
    OfTask,
    Open,
    Post,
    Receive,
    Send,
)
from longtake.plan.ir.plan_file import PlanFile, layout_line
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.ir.run import actions_of
from longtake.plan.ir.schedule import TaskActions
from longtake.plan.ir.text import format_action
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload
from longtake.strategies.base import ParallelStrategy


@final
class FromPlan(ParallelStrategy):
    """Run the actions of a plan file on the layout of another strategy.

    Whatever their order, the tasks must be those of the request's schedule, each window opened at
    the versions that the schedule states: the video is the one that every strategy gives.

    Args:
        strategy: Whose layout.
        plan: The file's content.
    """

    def __init__(self, strategy: ParallelStrategy, plan: PlanFile) -> None:
        self.strategy = strategy
        self.plan = plan
        self.decode_devices = strategy.decode_devices
        self.data = strategy.data
        self.aco = strategy.aco

    @override
    def layout(self, world_size: int, workload: Workload) -> Layout:
        return self.strategy.layout(world_size, workload)

    @override
    def connected(self, layout: Layout, workload: Workload, communicator: Communicator) -> Layout:
        return self.strategy.connected(layout, workload, communicator)

    @override
    def check(self, layout: Layout, workload: Workload) -> None:
        try:
            check_plan(self.plan, layout, workload)
        except PlanError as error:
            raise ConfigurationError(f"the plan cannot be run: {error}") from error
        own = [
            actions_of(self.actions, workload.forwards(), 0, layout, rank)
            for rank in range(layout.size)
        ]
        for rank, (ours, written) in enumerate(zip(own, self.plan.streams, strict=True)):
            for number, action in enumerate(ours):
                if number >= len(written) or written[number] != action:
                    raise ConfigurationError(
                        f"the plan cannot be run: rank {rank} is to {format_action(action)!r} as "
                        f"its action {number}: decoding, and how many heads are given away, have "
                        f"their fixed places behind the other actions."
                    )

    @override
    def actions(
        self,
        forwards: Iterable[Forward],
        request: int,
        layout: Layout,
        rank: int,
    ) -> Iterator[Action]:
        rest = iter(forwards)
        begin = next(rest, None)
        if begin is None:
            return
        first = read = begin.task.index
        for action in self.plan.streams[rank]:
            index = _index(action)
            if index < first or _is_put_in(action):
                continue
            # Tasks are begun as their first action comes, so that a run can be ended between two.
            while read < index and (forward := next(rest, None)) is not None:
                read = forward.task.index
            if index <= read:
                yield action


def check_plan(plan: PlanFile, layout: Layout, workload: Workload) -> None:
    """Refuse a plan that is no run of a request.

    Args:
        plan: As written.
        layout: Which rank holds and runs what.
        workload: The request.

    Raises:
        PlanError: Says what is wrong, with the actions around it.
    """
    if plan.layout != layout_line(layout):
        raise PlanError(
            f"it is for the layout '{plan.layout}', but this run has '{layout_line(layout)}'."
        )
    if plan.latent_frames != workload.latent_frames:
        raise PlanError(
            f"it is for {plan.latent_frames} latent frames, but this video has "
            f"{workload.latent_frames}."
        )
    validate(plan.streams, layout)
    for rank in range(layout.mesh.size):
        _check_tasks(plan.streams[rank], layout, workload, rank)


def _check_tasks(actions: Iterable[Action], layout: Layout, workload: Workload, rank: int) -> None:
    """Refuse windows and computing that the schedule does not have, or has otherwise."""
    here = RankRole.of(layout, rank)
    wanted: set[Action] = set()
    for forward in workload.forwards():
        ours = TaskActions(forward, here)
        wanted.update(ours.own_compute(branches) for branches in here.batches)
        if rank == layout.output_rank:
            wanted.add(next(ours.open()))
    found: set[Action] = {one for one in actions if isinstance(one, Open | Compute)}
    for action in sorted(found - wanted, key=_index):
        raise PlanError(f"rank {rank}: the schedule has no '{format_action(action)}'.")
    for action in sorted(wanted - found, key=_index):
        raise PlanError(f"rank {rank} lacks '{format_action(action)}' of the schedule.")


def _index(action: Action) -> int:
    match action:
        case OfTask(index=index):
            return index
        case Post(message=message) | Receive(message=message) | Send(message=message):
            return message.index
        case Collect(message=message):
            return message.index


def _is_put_in(action: Action) -> bool:
    """Whether an action is put in behind the strategy's; see :mod:`longtake.plan.ir.run`."""
    match action:
        case Decode() | Finish() | Collect() | Decide():
            return True
        case Post(message=message) | Receive(message=message) | Send(message=message):
            return message.kind in (Kind.BLOCK, Kind.HEADS)
        case _:
            return False
