"""Simulator: all ranks' actions on a clock, from the model's FLOPs and the hardware."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, TypeAlias

from longtake.plan.check.replay import Link, replay
from longtake.plan.cost.sequence import (
    attention_share,
    exchange_seconds,
    layer_bytes,
    packed_bytes,
)
from longtake.plan.cost.timeline import Box
from longtake.plan.ir.actions import (
    COLLECTED,
    Action,
    Compute,
    Decode,
    Kind,
    Message,
    Post,
    Receive,
    Send,
)
from longtake.plan.ir.run import compile_run
from longtake.plan.ir.schedule import Schedule
from longtake.plan.layout import Layout
from longtake.plan.workload import Workload

ENOUGH_BLOCKS: Final = 32
"""Blocks that a choice is made on; about a minute of video at 8 latent frames each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What a run would take. For choices and pictures: the hardware's speeds are rough.

    Args:
        makespan: Seconds until the last rank is done.
        first_block: Seconds until the first frames have been decoded.
        busy: Seconds that each rank computes or decodes.
        link_bytes: Bytes that go over each link.
        exchanged_bytes: Bytes that each rank sends to those with which it shares its tokens.
    """

    makespan: float
    first_block: float
    busy: tuple[float, ...]
    link_bytes: Mapping[Link, int]
    exchanged_bytes: tuple[float, ...]

    @property
    def idle(self) -> float:
        """Share of all ranks' time in which they wait."""
        shares = self.idle_of_ranks
        return sum(shares) / len(shares)

    @property
    def idle_of_ranks(self) -> tuple[float, ...]:
        """Share of each rank's time in which it waits."""
        if not self.makespan:
            return tuple(0.0 for _ in self.busy)
        # Sums in another order than the clock may be larger by the last bit.
        return tuple(max(0.0, 1 - busy / self.makespan) for busy in self.busy)

    @property
    def sent_bytes(self) -> tuple[int, ...]:
        """Bytes that each rank sends."""
        sent = [0] * len(self.busy)
        for link, count in self.link_bytes.items():
            sent[link.source] += count
        return tuple(sent)


Clock: TypeAlias = Callable[[Workload], Callable[[Layout], Simulation]]
"""``ParallelStrategy.clock``: of a finite workload, what a run takes in any layout."""


def simulate(layout: Layout, workload: Workload, schedule: Schedule) -> Simulation:
    """Return what a run would take.

    Args:
        layout: Which rank holds and runs what.
        workload: The model's FLOPs and the hardware; finite (see :func:`bounded`).
        schedule: The strategy's.

    Raises:
        PlanError: The actions are no run.
    """
    busy, exchanged = [0.0] * layout.size, [0.0] * layout.size
    makespan, first_block = 0.0, math.inf
    link_bytes: dict[Link, int] = {}
    for box in timeline(layout, workload, compile_run(layout, workload, schedule)):
        makespan = max(makespan, box.stop)
        match box.action:
            case Compute():
                busy[box.rank] += box.stop - box.start
                exchanged[box.rank] += layer_bytes(layout, workload, box.action) * len(
                    box.action.layers
                )
            case Decode():
                busy[box.rank] += box.stop - box.start
                if box.action.frames:
                    first_block = min(first_block, box.stop)
            case Send(message=message, target=target):
                link = Link(box.rank, target, message.kind)
                link_bytes[link] = link_bytes.get(link, 0) + message_bytes(
                    workload, message, layout.sequence
                )
            case _:
                pass
    return Simulation(
        makespan=makespan,
        first_block=first_block,
        busy=tuple(busy),
        link_bytes=link_bytes,
        exchanged_bytes=tuple(exchanged),
    )


def timeline(
    layout: Layout, workload: Workload, streams: Sequence[Iterable[Action]]
) -> Iterator[Box]:
    """Yield every action with its time, each rank's in order; lazily, so also for endless
    workloads.

    Computing and decoding take time, a receive lasts until its message is here, everything else
    is instant. A message starts when it is sent, its receive is posted and the one before it on
    its link is through; it takes its bytes over the bandwidth and the latency, whatever both
    ranks do meanwhile.

    Args:
        layout: Which rank holds and runs what.
        workload: The model's FLOPs and the hardware.
        streams: Each rank's actions, as :func:`longtake.plan.ir.run.compile_run` makes them.
    """
    clocks = [0.0] * len(streams)
    free: dict[Link, float] = {}
    # On a link messages are sent, posted and received in one order; requests' are alike.
    sent: dict[Link, deque[float]] = defaultdict(deque)
    posted: dict[Link, deque[float]] = defaultdict(deque)
    frame_seconds = decode_seconds(layout, workload)
    for rank, action in replay(streams):
        start = stop = clocks[rank]
        match action:
            case Compute():
                stop += compute_seconds(layout, workload, action)
            case Decode():
                stop += action.frames * frame_seconds
            case Send(message=message, target=target) if message.kind not in COLLECTED:
                sent[Link(rank, target, message.kind)].append(start)
            case Post(message=message, source=source):
                posted[Link(source, rank, message.kind)].append(start)
            case Receive(message=message, source=source):
                link = Link(source, rank, message.kind)
                through = max(sent[link].popleft(), posted[link].popleft(), free.get(link, 0.0))
                speed = workload.hardware.link(source, rank)
                through += message_bytes(workload, message, layout.sequence) / speed.bandwidth
                free[link] = through
                stop = max(start, through + speed.latency)
            case _:
                pass
        yield Box(rank, action, start, stop)
        clocks[rank] = stop


def decode_seconds(layout: Layout, workload: Workload) -> float:
    """Return how long a latent frame takes to decode; of several decode ranks, the slowest."""
    ranks = layout.decoders if layout.tiled else 1
    share = math.ceil(workload.tiles / ranks) / workload.tiles
    return share * workload.decode_seconds


def compute_seconds(layout: Layout, workload: Workload, action: Compute) -> float:
    """Return how long a stage takes for one batch of branches.

    Branches that run apart cost what they cost together, plus a second ``launch`` and a second
    embedding: even one frame of a 480p window has more tokens than a GPU needs to be full.

    Args:
        layout: Which rank holds and runs what.
        workload: The model's FLOPs and the hardware.
        action: The micro-batch.
    """
    flops, tokens, branches = workload.flops, workload.tokens_per_frame, len(action.branches)
    queries = workload.window_tokens(action.frames)
    keys = workload.window_tokens(action.frames + action.context)
    own_queries = -(-queries // layout.sequence)
    hardware = workload.hardware
    linear = branches * flops.layer * own_queries / hardware.rate(branches * own_queries)
    linear = max(linear, workload.layer_bytes / hardware.memory_bandwidth)
    moved = flops.moved + packed_bytes(layout, workload)
    passes = branches * own_queries * moved / hardware.passes + flops.calls * hardware.call
    attention = branches * (flops.attention + flops.scores * hardware.score) * queries * keys
    attention /= hardware.attention or hardware.matmul
    attention *= attention_share(layout, workload.spec.heads)
    layer = linear + passes + attention + exchange_seconds(layout, workload, action, attention)
    outside = 0.0
    if action.layers.start == 0:
        outside += flops.embed * action.frames * tokens
    if action.layers.stop == workload.spec.layers:
        outside += flops.head * action.own * tokens * branches
    return (
        workload.hardware.launch + len(action.layers) * layer + outside / workload.hardware.matmul
    )


def message_bytes(workload: Workload, message: Message, sequence: int = 1) -> int:
    """Return the size of a message: hidden states in the model's dtype, latents in fp32.

    Args:
        workload: The model and the size of the picture.
        message: Which one.
        sequence: Ranks that share a window's tokens, each with hops of its own.
    """
    if message.kind is Kind.HOP:
        tokens = -(-workload.window_tokens(message.frames) // sequence)
        rows = len(message.branches) * (1 + workload.reuses)  # after the first layer, too
        return rows * tokens * workload.spec.model_dim * workload.item_bytes
    if message.kind is Kind.HEADS:
        return 8
    if message.kind in COLLECTED:  # bytes of red, green and blue
        compression = workload.spec.compression
        pixels = workload.height * workload.width * compression.spatial**2
        return 3 * message.frames * compression.temporal * pixels
    rows = len(message.branches) if message.kind is Kind.PREDICTION else 1
    return rows * workload.spec.channels * message.frames * workload.height * workload.width * 4


def bounded(workload: Workload, blocks: int = ENOUGH_BLOCKS) -> Workload:
    """Return the workload of one video's first ``blocks`` blocks, or all of them if it has no more.

    What tells layouts apart is how they fill and drain, and whether the blocks in flight keep
    every stage busy in between. Both show within twice as many blocks as there are stages; a
    longer video only makes the idle share smaller.

    Args:
        workload: Of a video of any length, or an endless one.
        blocks: The most blocks.
    """
    if workload.requests > 1:
        workload = replace(workload, requests=1)
    first = list(islice(workload.scheduler.blocks(workload.latent_frames), blocks + 1))
    if len(first) <= blocks:
        return workload
    return replace(workload, latent_frames=first[blocks - 1].stop)
