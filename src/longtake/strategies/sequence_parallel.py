"""Sequence parallelism: one task's tokens over devices, exactly (xDiT's USP, PipeDiT's PipeSP)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal, final

from typing_extensions import override

from longtake.caches import Forward
from longtake.comm.bandwidth import measure_links
from longtake.comm.communicator import Communicator
from longtake.plan.cost.ring_clock import RingClock
from longtake.plan.ir.actions import Action
from longtake.plan.layout import Layout
from longtake.plan.search.layouts import choose_chunks
from longtake.plan.search.meshes import Asked
from longtake.plan.workload import Workload
from longtake.strategies.card import StrategyCard
from longtake.strategies.dual_paral import ring_schedule
from longtake.strategies.planned import PlannedStrategy, given


@final
class SequenceParallel(PlannedStrategy):
    """Split each task's tokens over devices; every device holds all layers (xDiT, USP).

    Right for clips up to the model's native length (``FullSequence``), where only one block is in
    flight, and for any schedule. Only self-attention is exchanged: cross-attention and whatever
    is done token by token is local. Tokens and heads need not divide the degrees. The result is
    the serial run's to rounding (1e-5, relative, in fp32).

    Args:
        ulysses: Devices that exchange tokens for heads; at most the number of heads.
        ring: Devices among which keys and values go round.
        cfg: 2 gives each guidance branch devices of its own.
        overlap: PipeSP: values, keys and queries travel one after another, each while the next is
            projected, and heads are attended in so many parts, the result of one travelling while
            the next is computed. 1 does neither. ``auto`` takes 2 or 4 where that is predicted to
            win: by the table in ``longtake plan``, in a run by its own links, measured once.
        decode_devices: Devices that decode finished blocks and do nothing else (PipeDiT's DeDiVAE),
            one per video, or several with ``model.vae_tile``; 0 decodes between tasks on the first
            device, ``auto`` weighs.
        aco: PipeDiT's attention co-processing: decode devices with nothing to decode attend some
            of the heads, as many as are measured to win.
        data: Replicas of all this, each with as many of the devices, which share the requests out;
            ``auto`` weighs.
    """

    card = StrategyCard(
        splits="tokens (ulysses, ring), guidance branches (cfg)",
        purpose="clips of the native length, and schedules in which one task waits for the other",
        video="to rounding",
        paper="xDiT (USP), 2024; PipeDiT's PipeSP, AAAI 2026",
    )

    def __init__(
        self,
        ulysses: int | Literal["auto"] = "auto",
        ring: int | Literal["auto"] = "auto",
        cfg: int | Literal["auto"] = "auto",
        overlap: int | Literal["auto"] = 1,
        decode_devices: int | Literal["auto"] = "auto",
        aco: bool = False,
        data: int | Literal["auto"] = 1,
    ) -> None:
        self.ulysses = ulysses
        self.ring = ring
        self.cfg = cfg
        self.overlap = overlap
        self.decode_devices = decode_devices
        self.aco = aco
        self.data = data

    @override
    def asked(self) -> Asked:
        return Asked(
            stages=1,
            cfg=given(self.cfg),
            ring=given(self.ring),
            ulysses=given(self.ulysses),
            together=True,
            chunks=given(self.overlap),
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
        """Return those of a ring of one stage: what is split is split within an action."""
        return ring_schedule(forwards, layout, rank)

    @override
    def connected(self, layout: Layout, workload: Workload, communicator: Communicator) -> Layout:
        if self.overlap != "auto" or layout.mesh.ulysses == 1:
            return layout
        rank = communicator.rank
        ranks = layout.ulysses_ranks(rank) if rank < layout.mesh.size else ()
        links = measure_links(ranks, layout.groups, communicator)
        hardware = replace(
            workload.hardware,
            bandwidth=links.bandwidth,
            latency=links.latency,
            hiding=links.hiding,
        )
        return choose_chunks(layout, replace(workload, hardware=hardware), self.clock)
