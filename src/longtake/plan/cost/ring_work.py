"""Work of a ring of stages: seconds and bytes of the tasks of each shape, and their sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from typing import final

from longtake.caches import Forward
from longtake.plan.check.replay import Link
from longtake.plan.cost.rundown import Rundown
from longtake.plan.cost.sequence import layer_bytes
from longtake.plan.cost.simulator import compute_seconds, message_bytes
from longtake.plan.ir.actions import Compute, Kind, Message
from longtake.plan.ir.rank_role import RankRole, other_first_ranks
from longtake.plan.ir.schedule import TaskActions
from longtake.plan.layout import Layout
from longtake.plan.mesh import Axis
from longtake.plan.workload import Workload


@final
class RingWork:
    """What the ranks of a ring do for a rundown's tasks, whenever they do it.

    Args:
        layout: Which rank holds and runs what.
        workload: What is made.
        tasks: Its rundown.

    Attributes:
        seconds: Of computing, by shape, guidance coordinate, batch and stage.
        sizes: Of messages, by shape.
    """

    def __init__(self, layout: Layout, workload: Workload, tasks: Rundown) -> None:
        self._layout, self._workload, self._tasks = layout, workload, tasks
        self._counts = [count * workload.requests for count in tasks.counts]
        self._computed = [self._computing(forward) for forward in tasks.shapes]
        self.seconds = [
            [
                [[compute_seconds(layout, workload, one) for one in row] for row in rows]
                for rows in of
            ]
            for of in self._computed
        ]
        self.sizes = [MessageSizes(layout, workload, forward) for forward in tasks.shapes]

    def busy(self, rank: int) -> float:
        """Return the seconds that a rank of the mesh computes."""
        cfg, stage = self._place(rank)
        of_shape = (sum(row[stage] for row in of[cfg]) for of in self.seconds)
        return sum(self._counts[shape] * seconds for shape, seconds in enumerate(of_shape))

    def exchanged_bytes(self, rank: int) -> float:
        """Return what a rank of the mesh sends to those with which it shares its tokens."""
        cfg, stage = self._place(rank)
        total = 0.0
        for shape, of in enumerate(self._computed):
            for computed in (row[stage] for row in of[cfg]):
                size = layer_bytes(self._layout, self._workload, computed) * len(computed.layers)
                total += self._counts[shape] * size
        return total

    def link_bytes(self) -> dict[Link, int]:
        """Return what goes over each link, blocks and frames to and from decode ranks included."""
        found: Counter[Link] = Counter()
        for shape, count in enumerate(self._counts):
            for link, size in self._messages(shape):
                found[link] += count * size
        layout, output = self._layout, self._layout.output_rank
        for request in range(self._workload.requests if layout.decoders else 0):
            decoders, finished = layout.decode_ranks(request), self._tasks.finished
            for rank in decoders:
                sizes = (block_bytes(layout, self._workload, frames) for frames in finished)
                found[Link(output, rank, Kind.BLOCK)] += sum(sizes)
            sizes = (size_of(layout, self._workload, Kind.FRAMES, frames) for frames in finished)
            found[Link(decoders[0], output, Kind.FRAMES)] += sum(sizes)
        return dict(found)

    def _messages(self, shape: int) -> Iterator[tuple[Link, int]]:
        """Yield the messages of a task of a shape within the mesh."""
        layout, sizes = self._layout, self.sizes[shape]
        output, combine, last = layout.output_rank, layout.combine_rank, layout.mesh.pipe - 1
        for rank in other_first_ranks(layout):
            yield Link(output, rank, Kind.LATENTS), sizes.window
        for cfg, row in enumerate(sizes.hops):
            for size, stage, i in product(row, range(last), range(layout.sequence)):
                ends = layout.rank(cfg, stage, i), layout.rank(cfg, stage + 1, i)
                yield Link(*ends, Kind.HOP), size
        if not self._tasks.shapes[shape].task.own:
            return
        for cfg, row in enumerate(sizes.predictions[1:], 1):
            for size in row:
                yield Link(layout.rank(cfg, last), combine, Kind.PREDICTION), size
        if combine != output:
            yield Link(combine, output, Kind.GUIDED), sizes.guided

    def _computing(self, forward: Forward) -> list[list[list[Compute]]]:
        """Return what is computed of a task, by guidance coordinate, batch and stage."""
        layout, found = self._layout, []
        for cfg in range(layout.mesh.cfg):
            ranks = [layout.rank(cfg, stage) for stage in range(layout.mesh.pipe)]
            parts = [TaskActions(forward, RankRole.of(layout, rank)) for rank in ranks]
            batches = layout.batches_at(cfg)
            found.append([[part.own_compute(batch) for part in parts] for batch in batches])
        return found

    def _place(self, rank: int) -> tuple[int, int]:
        coordinate = self._layout.mesh.coordinate(rank)
        return coordinate[Axis.CFG], coordinate[Axis.PIPE]


@final
class MessageSizes:
    """Bytes of the messages of a task.

    Args:
        layout: Which rank holds and runs what.
        workload: What is made.
        forward: The task.

    Attributes:
        window: Of its latents.
        hops: Of its hidden states, by guidance coordinate and batch.
        predictions: Likewise.
        guided: Of its result.
    """

    def __init__(self, layout: Layout, workload: Workload, forward: Forward) -> None:
        frames, own = len(forward.window.frames), len(forward.task.own)
        batches = [layout.batches_at(cfg) for cfg in range(layout.mesh.cfg)]

        def sized(kind: Kind, frames: int) -> list[list[int]]:
            return [
                [size_of(layout, workload, kind, frames, batch) for batch in row] for row in batches
            ]

        self.hops = sized(Kind.HOP, frames)
        self.predictions = sized(Kind.PREDICTION, own)
        self.window = size_of(layout, workload, Kind.LATENTS, frames)
        self.guided = size_of(layout, workload, Kind.GUIDED, own)


def block_bytes(layout: Layout, workload: Workload, frames: int) -> int:
    """Return the bytes of a finished block on its way to a decode rank."""
    return size_of(layout, workload, Kind.BLOCK, frames)


def size_of(
    layout: Layout, workload: Workload, kind: Kind, frames: int, branches: range = range(1)
) -> int:
    """Return the bytes of a message."""
    message = Message(kind=kind, index=0, block=0, step=0, branches=branches, frames=frames)
    return message_bytes(workload, message, layout.sequence)
