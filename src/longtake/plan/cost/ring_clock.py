"""Ring clock: when the tasks of a ring of stages are done, from a recurrence and not from actions.

What :func:`longtake.plan.cost.simulator.simulate` finds by playing every rank's actions of a
``ring_schedule``, a hundredth as often: all that counts of a task is its shape, and the task whose
sampler step it waits for. One rank stands for those that share a stage's tokens: that the others
have each window a message later than the output rank counts for nothing.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import product
from typing import Final, final

from longtake.plan.cost.ring_work import RingWork, block_bytes
from longtake.plan.cost.rundown import Rundown, Step, rundown
from longtake.plan.cost.simulator import Simulation, decode_seconds, simulate
from longtake.plan.ir.schedule import Schedule
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload

UNDER_WAY: Final = 2
"""Micro-batches under way per stage: one that is computed, and one that travels or waits."""


@final
class RingClock:
    """Times layouts of one workload whose ranks do what ``ring_schedule`` says.

    Layouts whose decode ranks attend heads are played: heads change hands within a task.

    Args:
        workload: What is made; finite.
        schedule: The strategy's, a ring's.
    """

    def __init__(self, workload: Workload, schedule: Schedule) -> None:
        self._workload = workload
        self._schedule = schedule

    def __call__(self, layout: Layout) -> Simulation:
        """Return what a run would take."""
        if layout.aco:
            return simulate(layout, self._workload, self._schedule)
        return ring_time(layout, self._workload, rundown(self._workload))


def ring_time(layout: Layout, workload: Workload, tasks: Rundown) -> Simulation:
    """Return what a run would take.

    Args:
        layout: Which rank holds and runs what; without attention co-processing.
        workload: What is made; finite.
        tasks: Its rundown.
    """
    return _Ring(layout, workload, tasks).run()


@final
class _Link:
    """A link's messages of one kind: each starts when it is sent, posted, and its turn has come."""

    __slots__ = ("_bandwidth", "_free", "_latency", "posted")

    def __init__(self, bandwidth: float, latency: float) -> None:
        self._bandwidth, self._latency, self._free = bandwidth, latency, 0.0
        self.posted = 0.0

    def arrives(self, sent: float, posted: float, size: float) -> float:
        """Return when a message is here."""
        self._free = max(sent, posted, self._free) + size / self._bandwidth
        return self._free + self._latency

    def awaited(self, sent: float, now: float, size: float) -> float:
        """Return when a rank goes on that waits for a message from now on.

        It was posted when the rank began to wait for the one before it (``post_ahead``).
        """
        posted, self.posted = self.posted, now
        self._free = max(sent, posted, self._free) + size / self._bandwidth
        return max(now, self._free + self._latency)


@final
class _Ring:
    def __init__(self, layout: Layout, workload: Workload, tasks: Rundown) -> None:
        self._layout, self._workload, self._tasks = layout, workload, tasks
        mesh = layout.mesh
        self._cfg, self._pipe = mesh.cfg, mesh.pipe
        self._batches = [layout.batches_at(cfg) for cfg in range(mesh.cfg)]
        self._frame = decode_seconds(layout, workload)
        output, combine, rank = layout.output_rank, layout.combine_rank, layout.rank
        self._hops = [
            [self._link(rank(cfg, max(0, s - 1)), rank(cfg, s)) for s in range(mesh.pipe)]
            for cfg in range(mesh.cfg)
        ]
        self._windows = [self._link(output, rank(cfg)) for cfg in range(mesh.cfg)]
        self._predictions = [
            self._link(rank(cfg, mesh.pipe - 1), combine) for cfg in range(mesh.cfg)
        ]
        self._results = self._link(combine, output)
        self._blocks = [self._link(output, one) for one in range(layout.size)]
        self._clock = [[0.0] * mesh.pipe for _ in range(mesh.cfg)]
        self._decoders = [0.0] * layout.size
        self._decoded = [0] * layout.size
        self._first = math.inf
        self._pending = 0
        self._work = RingWork(layout, workload, tasks)

    def run(self) -> Simulation:
        """Go through the tasks of all requests as the output rank does."""
        for request in range(self._workload.requests):
            self._request(request)
        layout, mesh = self._layout, range(self._layout.mesh.size)
        busy = [self._work.busy(rank) for rank in mesh] + [0.0] * layout.decoders
        exchanged = [self._work.exchanged_bytes(rank) for rank in mesh] + [0.0] * layout.decoders
        return Simulation(
            makespan=max(*self._decoders, *(clock for row in self._clock for clock in row)),
            first_block=self._first,
            busy=tuple(
                one + frames * self._frame for one, frames in zip(busy, self._decoded, strict=True)
            ),
            link_bytes=self._work.link_bytes(),
            exchanged_bytes=tuple(exchanged),
        )

    def _request(self, request: int) -> None:
        limit = UNDER_WAY * self._pipe // len(self._batches[0])
        decoders = self._layout.decode_ranks(request)
        self._post()
        begun: deque[tuple[int, Step, float]] = deque()
        for index, step in enumerate(self._tasks.steps):
            while begun and (len(begun) > limit or begun[0][0] <= step.waits):
                self._advance(*begun.popleft()[1:], decoders)
            guided = self._through(step)
            if self._pipe == 1:
                self._advance(step, guided, decoders)
            else:
                begun.append((index, step, guided))
        while begun:
            self._advance(*begun.popleft()[1:], decoders)
        self._decode(self._pending)

    def _post(self) -> None:
        """Have every rank post the first message of each kind of a request."""
        for cfg, stage in product(range(self._cfg), range(self._pipe)):
            self._hops[cfg][stage].posted = self._clock[cfg][stage]
        for cfg in range(self._cfg):
            self._windows[cfg].posted = self._clock[cfg][0]
            self._predictions[cfg].posted = self._clock[0][-1]

    def _through(self, step: Step) -> float:
        """Take a task through all stages; return when its result is on the output rank."""
        sizes, seconds = self._work.sizes[step.shape], self._work.seconds[step.shape]
        opened = self._clock[0][0]
        done = opened
        for cfg in range(self._cfg):
            clocks, hops = self._clock[cfg], self._hops[cfg]
            if cfg:
                clocks[0] = self._windows[cfg].awaited(opened, clocks[0], sizes.window)
            stops: list[float] = []
            for hop, stages in zip(sizes.hops[cfg], seconds[cfg], strict=True):
                stop = clocks[0] = clocks[0] + stages[0]
                for stage in range(1, self._pipe):
                    start = hops[stage].awaited(stop, clocks[stage], hop)
                    stop = clocks[stage] = start + stages[stage]
                stops.append(stop)
            if not step.own:
                continue
            if not cfg:
                done = stops[-1]
                continue
            link = self._predictions[cfg]
            for stop, size in zip(stops, sizes.predictions[cfg], strict=True):
                if self._pipe == 1:
                    done = max(done, link.arrives(stop, opened, size))
                else:
                    done = link.awaited(stop, done, size)
        if not step.own:
            return opened
        self._clock[0][-1] = done
        return done if self._pipe == 1 else self._results.arrives(done, opened, sizes.guided)

    def _advance(self, step: Step, guided: float, decoders: list[int]) -> None:
        """Take a task's sampler steps on the output rank, and decode between them."""
        if not step.own:
            return
        output = self._clock[0]
        output[0] = max(output[0], guided)
        for _ in range(step.advances):
            self._decode(1)
        for frames in step.finished:
            if decoders:
                self._hand_over(frames, decoders)
                continue
            self._decode(self._pending)
            self._pending = frames
            if self._layout.mesh.size == 1:
                self._decode(frames)

    def _decode(self, most: int) -> None:
        frames = min(most, self._pending)
        if frames:
            self._pending -= frames
            self._first = min(self._first, self._clock[0][0] + self._frame)
            self._clock[0][0] += frames * self._frame
            self._decoded[0] += frames

    def _hand_over(self, frames: int, decoders: list[int]) -> None:
        """Have a decode rank, or all of them where they share tiles, decode a block."""
        size = block_bytes(self._layout, self._workload, frames)
        for rank in decoders:
            ready = self._decoders[rank]
            start = max(ready, self._blocks[rank].arrives(self._clock[0][0], ready, size))
            self._first = min(self._first, start + self._frame)
            self._decoders[rank] = start + frames * self._frame
            self._decoded[rank] += frames

    def _link(self, source: int, target: int) -> _Link:
        speed = self._workload.hardware.link(source, target)
        return _Link(speed.bandwidth, speed.latency)
