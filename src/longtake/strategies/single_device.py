"""SingleDevice, the serial run: the meaning of every other strategy, and its oracle."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Literal, final

from typing_extensions import override

from longtake.caches import Forward
from longtake.errors import ConfigurationError
from longtake.plan.cost.ring_clock import RingClock
from longtake.plan.ir.actions import Action
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.ir.schedule import TaskActions
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload
from longtake.strategies.base import ParallelStrategy
from longtake.strategies.card import StrategyCard
from longtake.strategies.runtime.block_queue import BlockQueue
from longtake.strategies.runtime.cuts import CutState, LateBlock
from longtake.strategies.runtime.denoising import (
    ActionDone,
    BlockDone,
    Denoising,
    Progress,
    TaskDone,
)
from longtake.strategies.runtime.guided_blocks import GuidedBlocks
from longtake.strategies.runtime.reuse_decider import ReuseDecider
from longtake.strategies.runtime.task_forward import TaskForward
from longtake.task import Task


@final
class SingleDevice(ParallelStrategy):
    """Run the tasks one after another on one device; guidance branches as one batch.

    Args:
        decode_devices: Further devices that decode finished blocks and do nothing else: one per
            video, or several with ``model.vae_tile``.
        aco: PipeDiT's attention co-processing: those with nothing to decode attend some of the
            heads, as many as are measured to win. To rounding the same video.
        data: Devices that each make some of the requests, all by themselves; ``auto`` weighs.
    """

    card = StrategyCard(
        splits="nothing; further devices may decode, or make other requests",
        purpose="one device, and what every other strategy must give",
        video="the serial run itself",
    )

    def __init__(
        self, decode_devices: int = 0, aco: bool = False, data: int | Literal["auto"] = 1
    ) -> None:
        self.decode_devices = decode_devices
        self.aco = aco
        self.data = data

    @override
    def layout(self, world_size: int, workload: Workload) -> Layout:
        if world_size != 1:
            raise ConfigurationError(
                f"the strategy SingleDevice denoises on 1 device, but {world_size} were asked for; "
                f"set trainer.devices to 1, let decode_devices decode, have each device make some "
                f"of several requests (data: {world_size}), or choose a parallel strategy."
            )
        return Layout.serial(workload.spec.layers, workload.branches)

    @override
    def actions(
        self,
        forwards: Iterable[Forward],
        request: int,
        layout: Layout,
        rank: int,
    ) -> Iterator[Action]:
        here = RankRole.of(layout, rank)
        for forward in forwards:
            parts = TaskActions(forward, here)
            yield from parts.open()
            yield from parts.compute(here.branches)
            yield from parts.combine()
            yield from parts.advance()

    @override
    def clock(self, workload: Workload) -> RingClock:
        return RingClock(workload, self.actions)

    @override
    def run(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        if layout.aco:  # heads that are given away are decided and sent by actions
            return super().run(work, layout, rank)
        return self._serial(work, layout, rank)

    def _serial(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        """Run the tasks without the executor, whose oracle this is; report the same actions."""
        decider = ReuseDecider.of(work, layout, rank, "")
        model, layers = TaskForward(work, decider=decider), layout.layers(rank)
        here = RankRole.of(layout, rank)
        queue, guided, clock = BlockQueue(work), GuidedBlocks(work), _Clock()
        cut = _Cut(work, queue, model, guided, decider)
        try:
            for forward in work.forwards:
                cut.before(forward.task)
                task, parts = forward.task, TaskActions(forward, here)
                clock.start()
                latents = queue.latents(forward)
                yield from clock.done(parts.open())
                hidden = model.layers(forward, model.embed(forward, latents), layers)
                if not task.runs:  # forwarded for its keys and values alone
                    cut.after(task, [])
                    yield from clock.done([parts.own_compute(here.branches)])
                    yield TaskDone(task)
                    continue
                prediction = model.predict(forward, hidden)
                yield from clock.done([parts.own_compute(here.branches)], model.reused)
                prediction = guided.combine(task, prediction)
                yield from clock.done(parts.combine())
                finished = list(queue.step(forward, prediction))
                cut.after(task, [BlockDone(run.block, run.block_frames, x) for run, x in finished])
                steps = list(parts.advance())
                emits = steps[len(steps) - len(finished) :]
                yield from clock.done(steps[: len(steps) - len(finished)])
                yield TaskDone(task)
                for emit in emits:
                    clock.start()
                    yield from clock.done([emit])
                    yield cut.unheard.pop(0)
        except GeneratorExit:
            cut.close()
            raise


@final
class _Cut:
    """Cuts of a serial run: any moment between two tasks is one.

    Args:
        work: The request.
        queue: Its blocks in flight.
        model: With the features that are kept.
        guided: With what guidance keeps.
        decider: With what is known of layers that are reused.
    """

    def __init__(
        self,
        work: Denoising,
        queue: BlockQueue,
        model: TaskForward,
        guided: GuidedBlocks,
        decider: ReuseDecider | None,
    ) -> None:
        self._cuts, self._queue, self._model = work.cuts, queue, model
        self._guided, self._decider = guided, decider
        self._last: Task | None = None
        self._between = True
        self.unheard: list[BlockDone] = []
        if self._cuts is not None:
            self._cuts.begin()

    def before(self, task: Task) -> None:
        """Save what is held, where the request is cut before a task."""
        cuts, last = self._cuts, self._last
        if cuts is not None and last is not None and cuts.falls_between(last, task):
            cuts.begin()
            cuts.take(self._state(last))
        self._between = False

    def after(self, task: Task, finished: list[BlockDone]) -> None:
        """Remember that a task is done, and the blocks that are to be reported."""
        self._last, self._between, self.unheard = task, True, finished

    def close(self) -> None:
        """Save what is held when the request is closed, if that is between two tasks."""
        if self._cuts is not None and self._last is not None and self._between:
            self._cuts.take(self._state(self._last))

    def _state(self, last: Task) -> CutState:
        tensors, queue = self._queue.state()
        features, entries = self._model.state()
        kept, guidance = self._guided.state()
        first, reuse = ({}, []) if self._decider is None else self._decider.state()
        late = tuple(
            LateBlock(block=one.block, frames=one.frames, latents=one.latents)
            for one in self.unheard
        )
        return CutState(
            index=last.index + 1,
            tensors=tensors | features | kept | first,
            facts={"queue": queue, "entries": entries, "guidance": guidance, "reuse": reuse},
            late=late,
        )


@final
class _Clock:
    """Times actions, one after another."""

    def __init__(self) -> None:
        self._last = 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def done(self, actions: Iterable[Action], reused: bool = False) -> Iterator[ActionDone]:
        """Report what has been done since the last report."""
        now = time.perf_counter()
        for action in actions:
            yield ActionDone(action, self._last, now, reused)
        self.start()
