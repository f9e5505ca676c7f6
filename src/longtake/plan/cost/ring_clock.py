"""Ring clock: when the tasks of a ring of stages are done, from a recurrence and not from actions.

What :func:`longtake.plan.cost.simulator.simulate` finds by playing every rank's actions of a
``ring_schedule``, for one video, a hundredth as often: all that counts of a task is its shape, and
the task whose sampler step it waits for. One rank stands for those that share a stage's tokens.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Final, final

from longtake.caches import Forward
from longtake.plan.cost.sequence import layer_bytes
from longtake.plan.cost.simulator import compute_seconds, decode_seconds, message_bytes
from longtake.plan.ir.actions import Compute, Kind, Message
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.ir.schedule import TaskActions
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload

UNDER_WAY: Final = 2
"""Micro-batches under way per stage: one that is computed, and one that travels or waits."""


@dataclass(frozen=True, slots=True)
class Step:
    """What counts of a task.

    Args:
        shape: Number of its shape.
        waits: The last task whose sampler steps its window sees; -1 for none.
        own: Latent frames that are predicted.
        advances: Sampler steps that it takes.
        finished: Latent frames of each block that it finishes.
    """

    shape: int
    waits: int
    own: int
    advances: int
    finished: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Widest:
    """The largest forward of a schedule.

    Args:
        frames: Latent frames that pass through the layers.
        context: Frames whose keys and values are read beside them.
    """

    frames: int
    context: int


@dataclass(frozen=True, slots=True)
class Rundown:
    """The tasks of a finite workload: their shapes, each with a task that has it.

    Args:
        steps: In serial order.
        shapes: By number.
    """

    steps: tuple[Step, ...]
    shapes: tuple[Forward, ...]

    @property
    def widest(self) -> Widest:
        """The largest forward; of a workload's first blocks that of the whole: it has settled."""
        windows = [forward.window for forward in self.shapes]
        return Widest(
            frames=max(len(window.frames) for window in windows),
            context=max(len(window.reads) for window in windows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RingTime:
    """What a run would take, as ``Simulation`` has it.

    Args:
        makespan: Seconds until the last frames have been decoded.
        first_block: Seconds until the first frames have been decoded.
        idle: Share of all ranks' time in which they wait.
        sent: Bytes that ranks send one another.
    """

    makespan: float
    first_block: float
    idle: float
    sent: float


def rundown(workload: Workload) -> Rundown:
    """Walk a finite workload's schedule once; any number of layouts can be timed on it."""
    steps: list[Step] = []
    shapes: dict[tuple[int, int, int], int] = {}
    examples: list[Forward] = []
    stepped: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for index, forward in enumerate(workload.forwards()):
        task, window = forward.task, forward.window
        shape = (len(window.frames), len(window.reads), len(task.own))
        if shape not in shapes:
            shapes[shape] = len(examples)
            examples.append(forward)
        waits = -1
        for frames, version in forward.latents:
            for frame in frames.each:
                seen = (place for step, place in reversed(stepped[frame]) if step < version)
                waits = max(waits, next(seen, -1))
        for run in task.runs:
            for frame in run.block_frames.each:
                stepped[frame].append((run.step, index))
        finished = tuple(len(run.block_frames) for run in task.finished)
        advances = sum(run.advances for run in task.runs)
        steps.append(Step(shapes[shape], waits, len(task.own), advances, finished))
    return Rundown(tuple(steps), tuple(examples))


def ring_time(layout: Layout, workload: Workload, tasks: Rundown) -> RingTime:
    """Return what a run would take.

    Args:
        layout: Which rank holds and runs what.
        workload: What is made; finite.
        tasks: Its rundown.
    """
    return _Ring(layout, workload, tasks).run()


@final
class _Link:
    """A link's messages of one kind: each starts when it is sent, posted, and its turn has come."""

    def __init__(self, bandwidth: float, latency: float) -> None:
        self._bandwidth, self._latency, self._free = bandwidth, latency, 0.0

    def arrives(self, sent: float, posted: float, size: float) -> float:
        """Return when a message is here."""
        self._free = max(sent, posted, self._free) + size / self._bandwidth
        return self._free + self._latency


@final
class _Ring:
    def __init__(self, layout: Layout, workload: Workload, tasks: Rundown) -> None:
        self._layout, self._workload, self._tasks = layout, workload, tasks
        mesh, hardware = layout.mesh, workload.hardware
        self._cfg, self._pipe = mesh.cfg, mesh.pipe
        self._batches = [layout.batches_at(cfg) for cfg in range(mesh.cfg)]
        self._frame = decode_seconds(layout, workload)
        self._links: dict[tuple[Kind, int, int], _Link] = defaultdict(
            lambda: _Link(hardware.bandwidth, hardware.latency)
        )
        self._clock = [[0.0] * mesh.pipe for _ in range(mesh.cfg)]
        self._waited: dict[tuple[Kind, int, int], float] = defaultdict(float)
        self._busy = self._sent = self._decoder = 0.0
        self._first = math.inf
        self._pending = 0
        self._seconds, self._exchanged = self._tables()
        self._sizes = [self._message_sizes(forward) for forward in tasks.shapes]

    def run(self) -> RingTime:
        """Go through the tasks as the output rank does."""
        limit = UNDER_WAY * self._pipe // len(self._batches[0])
        combines = self._pipe == 1
        begun: deque[tuple[int, Step, float]] = deque()
        for index, step in enumerate(self._tasks.steps):
            while begun and (len(begun) > limit or begun[0][0] <= step.waits):
                self._advance(*begun.popleft()[1:])
            guided = self._through(step)
            if combines:
                self._advance(step, guided)
            else:
                begun.append((index, step, guided))
        while begun:
            self._advance(*begun.popleft()[1:])
        self._decode(self._pending)
        makespan = max(self._decoder, *(clock for row in self._clock for clock in row))
        size = self._layout.size
        return RingTime(
            makespan=makespan,
            first_block=self._first,
            idle=1 - self._busy / (size * makespan) if makespan else 0.0,
            sent=self._sent,
        )

    def _through(self, step: Step) -> float:
        """Take a task through all stages; return when its result is on the output rank."""
        hop, window, prediction, guided = self._sizes[step.shape]
        opened = self._clock[0][0]
        self._sent += window * (self._cfg * self._layout.sequence - 1)
        ends = [
            self._coordinate(cfg, step, opened, hop, window)
            for cfg in reversed(range(self._cfg))  # that of the output rank last: it combines
        ]
        done = ends[-1][-1]
        if not step.own:
            return opened
        for cfg, stops in zip(reversed(range(1, self._cfg)), ends, strict=False):
            for stop in stops:
                place = (Kind.PREDICTION, cfg, 0)
                posted = opened if self._pipe == 1 else self._waited[place]
                self._waited[place] = done
                done = max(done, self._links[place].arrives(stop, posted, prediction))
                self._sent += prediction
        self._clock[0][-1] = done
        if self._pipe == 1:
            return done
        self._sent += guided
        return self._links[Kind.GUIDED, 0, 0].arrives(done, opened, guided)

    def _coordinate(
        self, cfg: int, step: Step, opened: float, hop: float, window: float
    ) -> list[float]:
        """Take a task through a guidance coordinate's stages; return when each batch is done."""
        clocks = self._clock[cfg]
        if cfg:
            clocks[0] = self._received((Kind.LATENTS, cfg, 0), opened, clocks[0], window)
        stops: list[float] = []
        for batch in range(len(self._batches[cfg])):
            stop = 0.0
            for stage, seconds in enumerate(self._seconds[cfg][step.shape][batch]):
                start = clocks[stage]
                if stage:
                    start = self._received((Kind.HOP, cfg, stage), stop, start, hop)
                    self._sent += hop * self._layout.sequence
                stop = clocks[stage] = start + seconds
                self._busy += seconds * self._layout.sequence
            stops.append(stop)
        self._sent += self._exchanged[cfg][step.shape]
        return stops

    def _received(
        self, place: tuple[Kind, int, int], sent: float, now: float, size: float
    ) -> float:
        """Return when a rank has a message that it waits for from now on.

        It was posted when the rank began to wait for the one before it (``post_ahead``).
        """
        posted, self._waited[place] = self._waited[place], now
        return max(now, self._links[place].arrives(sent, posted, size))

    def _advance(self, step: Step, guided: float) -> None:
        """Take a task's sampler steps on the output rank, and decode between them."""
        if not step.own:
            return
        output = self._clock[0]
        output[0] = max(output[0], guided)
        for _ in range(step.advances):
            self._decode(1)
        for frames in step.finished:
            if self._layout.decoders:
                self._hand_over(frames)
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
            self._busy += frames * self._frame

    def _hand_over(self, frames: int) -> None:
        """Have a decode rank, or all of them where they share tiles, decode a block."""
        ranks = self._layout.decoders if self._layout.tiled else 1
        size = self._size(Kind.BLOCK, range(1), frames)
        sent = self._links[Kind.BLOCK, 0, 0].arrives(self._clock[0][0], 0.0, size)
        start = max(self._decoder, sent)
        self._first = min(self._first, start + self._frame)
        self._decoder = start + frames * self._frame
        self._busy += ranks * frames * self._frame
        self._sent += ranks * size + self._size(Kind.FRAMES, range(1), frames)

    def _tables(self) -> tuple[list[list[list[list[float]]]], list[list[float]]]:
        """Return seconds by guidance coordinate, shape, batch and stage; bytes by the first two."""
        seconds: list[list[list[list[float]]]] = []
        exchanged: list[list[float]] = []
        for cfg, batches in enumerate(self._batches):
            ranks = [self._layout.rank(cfg, stage) for stage in range(self._pipe)]
            roles = [RankRole.of(self._layout, rank) for rank in ranks]
            seconds.append([])
            exchanged.append([])
            for forward in self._tasks.shapes:
                table = [
                    [TaskActions(forward, role).own_compute(batch) for role in roles]
                    for batch in batches
                ]
                seconds[-1].append([[self._of(action) for action in row] for row in table])
                exchanged[-1].append(sum(self._bytes(action) for row in table for action in row))
        return seconds, exchanged

    def _of(self, action: Compute) -> float:
        return compute_seconds(self._layout, self._workload, action)

    def _bytes(self, action: Compute) -> float:
        size = layer_bytes(self._layout, self._workload, action) * len(action.layers)
        return size * self._layout.sequence

    def _message_sizes(self, forward: Forward) -> tuple[float, float, float, float]:
        """Return the bytes of a shape's hop, window, prediction and result."""
        frames, own = len(forward.window.frames), len(forward.task.own)
        every = range(self._workload.branches)
        batch = max((batch for row in self._batches for batch in row), key=len)

        return (
            self._size(Kind.HOP, batch, frames),
            self._size(Kind.LATENTS, every, frames),
            self._size(Kind.PREDICTION, batch, own),
            self._size(Kind.GUIDED, every, own),
        )

    def _size(self, kind: Kind, branches: range, frames: int) -> float:
        message = Message(kind=kind, index=0, block=0, step=0, branches=branches, frames=frames)
        return message_bytes(self._workload, message, self._layout.sequence)
