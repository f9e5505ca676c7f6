"""Parallel strategy contract: a layout, and a schedule of actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Literal

from longtake.caches import Forward
from longtake.comm.communicator import Communicator
from longtake.errors import NoPlan
from longtake.plan.cost.simulator import Simulation, simulate
from longtake.plan.ir.actions import Action
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload
from longtake.strategies.card import StrategyCard
from longtake.strategies.runtime.denoising import Denoising, Progress
from longtake.strategies.runtime.executor import Executor


class ParallelStrategy(ABC):
    """Decides where layers, heads, tokens and guidance branches run; never what is computed.

    Serial semantics: whatever the strategy, the blocks are those that running the tasks one
    after another, in the schedule's order, on one device gives.

    Besides ``layout``, a strategy gives ``actions``: what its ranks do, as data. They are planned,
    validated, simulated, drawn and run alike. A strategy that cannot say so overrides ``run``, and
    has no plan.

    Where finished blocks are decoded is not the strategy's business: with ``decode_devices`` it
    lays out that many ranks less, and the framework lets the others decode. Neither is how many
    replicas of it there are: with ``data`` it lays out each one's share of the ranks, and each
    makes its share of the requests.
    """

    card: ClassVar[StrategyCard | None] = None
    """What ``longtake strategies`` says of it; ``None``: nothing."""
    decode_devices: int | Literal["auto"] = 0
    """Ranks that decode and do nothing else; ``auto``: as many as make the run fastest."""
    data: int | Literal["auto"] = 1
    """Replicas, each of which makes some of the requests; ``auto``: as makes the run fastest."""
    aco: bool = False
    """Attention co-processing: whether ranks with nothing to decode attend some of the heads."""

    @abstractmethod
    def layout(self, world_size: int, workload: Workload) -> Layout:
        """State which of ``world_size`` ranks, those of one replica, holds and runs what.

        Pure, called before any weight is read. All ranks derive the same layout from the same
        workload; a run with several requests has one layout, made for the longest of them.

        Raises:
            ConfigurationError: The degrees are impossible; names the possible ones.
        """

    def alternatives(self, world_size: int, workload: Workload) -> list[Layout]:
        """Return every layout that ``layout`` weighs, for plans to show; by default its own alone.

        Raises:
            ConfigurationError: As ``layout``.
        """
        return [self.layout(world_size, workload)]

    def check(self, layout: Layout, workload: Workload) -> None:  # noqa: B027 - an option, not a duty
        """Refuse a request that the strategy cannot run in a layout; by default it runs any.

        Pure, called for every request, before any weight is read.

        Args:
            layout: From ``layout``, decode ranks included.
            workload: The request.

        Raises:
            ConfigurationError: Says why.
        """

    def connected(self, layout: Layout, workload: Workload, communicator: Communicator) -> Layout:
        """Settle what depends on how fast the run's own links are; by default nothing does.

        Collective: all ranks call it once, when they are connected, and get the same layout.

        Args:
            layout: From ``layout``. Who holds and runs what stays as it is.
            workload: What it was made for.
            communicator: The ranks of the run.
        """
        return layout

    def actions(
        self,
        forwards: Iterable[Forward],
        request: int,
        layout: Layout,
        rank: int,
    ) -> Iterator[Action]:
        """Return what a rank of the mesh does for a request, in order, lazily.

        Pure: without a tensor, the same on every rank that asks. Put the actions of each task
        together from :class:`longtake.plan.ir.schedule.TaskActions`. The decoding of blocks, and
        the heads that decode ranks attend, are put in behind it.

        Args:
            forwards: The request's tasks in serial order, each with what the feature cache makes
                of it; endless for an endless video. A rank may be asked for the actions of the
                tasks from some task on.
            request: Number of the request in the run.
            layout: From ``layout``.
            rank: Whose actions.

        Raises:
            NoPlan: The strategy overrides ``run`` instead.
        """
        raise NoPlan(
            f"the strategy {type(self).__name__} runs without a plan: it gives no actions, so "
            f"there is nothing to simulate, draw or check."
        )

    def clock(self, workload: Workload) -> Callable[[Layout], Simulation]:
        """Return what tells how long a run takes in any layout; by default all actions are played.

        A strategy whose actions follow a recurrence overrides it: playing takes a second for a
        few thousand actions.

        Args:
            workload: What is made; finite.

        Raises:
            NoPlan: When it is called: the strategy gives no actions.
        """
        return lambda layout: simulate(layout, workload, self.actions)

    def run(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        """Run every task and yield progress; by default ``actions``, one after another.

        The output rank yields ``TaskDone`` for every task in the schedule's order, and
        ``BlockDone`` right after a block's last task, so blocks come in the order of time. Other
        ranks yield ``TaskDone`` for the tasks that they took part in, and no block.

        Collective: all ranks of the mesh must call it for the same requests in the same order and
        exhaust the iterator. To stop early, the output rank closes it; the other ranks' iterators
        then end by themselves after the last task that was begun.

        Args:
            work: This rank's view of the request.
            layout: From ``layout``.
            rank: Global rank.
        """
        return Executor(work, layout, rank, self.actions).run()
