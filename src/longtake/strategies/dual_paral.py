"""DualParal: layers over devices, blocks at different noise levels in flight between them.

The stages form a ring (DualParal, AAAI 2026, section 3): the output rank puts a window's latents
together and runs the first layers, hidden states hop from stage to stage, the last stage predicts
the block's own frames, joins the guidance branches and returns the result, and the output rank
takes the sampler step. Ranks that share a stage's tokens (ring, Ulysses) do all of this alike,
each with its own tokens; the first of them predicts.

While a task is under way, the output rank begins further ones, as far as the schedule allows: what
a task reads of which version is read off the schedule, never off what happens to have arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal, final

from typing_extensions import override

from longtake.caches import Forward
from longtake.plan.cost.ring_clock import UNDER_WAY, RingClock
from longtake.plan.ir.actions import Action
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.ir.schedule import TaskActions, post_ahead
from longtake.plan.layout import Layout
from longtake.plan.search.meshes import Asked
from longtake.plan.workload import Workload
from longtake.strategies.card import StrategyCard
from longtake.strategies.planned import PlannedStrategy, given


@final
class DualParal(PlannedStrategy):
    """Run the tasks of a block queue through a ring of pipeline stages (DualParal, AAAI 2026).

    Each stage holds only its own layers and works on another block. Hidden states hop from stage
    to stage while the next block is computed; the sampler, the noise and the queue are on the
    first stage, and the last one returns only the block's own frames after guidance.

    With ``guidance: together`` the result is bit-equal to ``SingleDevice`` (fp32 on CPU). Branches
    that are run apart, as micro-batchs of their own or on devices of their own, change operand
    shapes: equal to rounding. ``auto`` does so where the simulation says that it is at least 2 %
    faster, which is where blocks are few.

    Args:
        stages: Pipeline stages; ``auto`` weighs them against ``cfg``.
        cfg: 2 gives each guidance branch stages of its own, 1 does not; ``auto`` weighs.
        guidance: ``together`` runs both guidance branches as one batch, ``apart`` one after the
            other as micro-batchs, which halves what a stage waits for when blocks are few.
        ulysses: Devices of each stage that exchange tokens for heads; see ``SequenceParallel``.
        ring: Devices of each stage among which keys and values go round.
        split: Layers of each stage, first stage first; left out: split by cost.
        decode_devices: Devices that decode finished blocks and do nothing else (PipeDiT's DeDiVAE),
            one per video, or several with ``model.vae_tile``; 0 decodes between tasks on the first
            device, ``auto`` weighs.
        data: Replicas of all this, each with as many of the devices, which share the requests out;
            ``auto`` weighs.
    """

    card = StrategyCard(
        splits="layers into stages, guidance branches (cfg), tokens of a stage (ulysses, ring)",
        purpose="long videos: every stage works on another block of the queue",
        video="bit-equal with guidance: together, to rounding otherwise",
        paper="DualParal, AAAI 2026",
    )

    def __init__(
        self,
        stages: int | Literal["auto"] = "auto",
        cfg: int | Literal["auto"] = "auto",
        guidance: Literal["auto", "together", "apart"] = "auto",
        ulysses: int = 1,
        ring: int = 1,
        split: list[int] | None = None,
        decode_devices: int | Literal["auto"] = "auto",
        data: int | Literal["auto"] = 1,
    ) -> None:
        self.stages = stages
        self.cfg = cfg
        self.guidance = guidance
        self.ulysses = ulysses
        self.ring = ring
        self.split = split
        self.decode_devices = decode_devices
        self.data = data

    @override
    def asked(self) -> Asked:
        return Asked(
            stages=given(self.stages),
            cfg=given(self.cfg),
            ring=self.ring,
            ulysses=self.ulysses,
            together=None if self.guidance == "auto" else self.guidance == "together",
            split=self.split,
        )

    @override
    def clock(self, workload: Workload) -> RingClock:
        return RingClock(workload, self.actions)

    @override
    def actions(
        self,
        forwards: Iterable[Forward],
        request: int,
        layout: Layout,
        rank: int,
    ) -> Iterator[Action]:
        return ring_schedule(forwards, layout, rank)


def ring_schedule(forwards: Iterable[Forward], layout: Layout, rank: int) -> Iterator[Action]:
    """Return the actions of one rank of the ring, lazily.

    Args:
        forwards: Of a request, in serial order.
        layout: Which rank holds and runs what.
        rank: Whose actions.
    """
    here = RankRole.of(layout, rank)
    ours = (TaskActions(forward, here) for forward in forwards)
    if rank == layout.output_rank:
        return _output_rank(ours, here, UNDER_WAY * layout.mesh.pipe // len(here.batches))
    return post_ahead(_other_rank(ours, here))


def _output_rank(tasks: Iterable[TaskActions], here: RankRole, limit: int) -> Iterator[Action]:
    begun: deque[TaskActions] = deque()
    for task in tasks:
        while len(begun) > limit or any(task.waits_for(before) for before in begun):
            yield from begun.popleft().advance()
        yield from task.open()
        yield from task.post_result()
        for branches in here.batches:
            yield from task.compute(branches)
        if here.combines:
            yield from task.combine()
            yield from task.advance()
        else:
            begun.append(task)
    while begun:
        yield from begun.popleft().advance()


def _other_rank(tasks: Iterable[TaskActions], here: RankRole) -> Iterator[Action]:
    for task in tasks:
        yield from task.receive_window()
        for branches in here.batches:
            yield from task.compute(branches)
        yield from task.combine()
