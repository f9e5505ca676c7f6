"""Sequence parallelism: one task's tokens over devices, exactly (xDiT's USP, PipeDiT's PipeSP)."""

from __future__ import annotations

from typing import Literal, final

from typing_extensions import override

from longtake.plan.meshes import Asked
from longtake.strategies.chosen import ChosenStrategy, given


@final
class SequenceParallel(ChosenStrategy):
    """Split each task's tokens over devices; every device holds all layers (xDiT, USP).

    Right for clips up to the model's native length (``FullSequence``), where only one block is in
    flight, and for any schedule. Only self-attention is exchanged: cross-attention and whatever
    is done token by token is local. Tokens and heads need not divide the degrees. The result is
    the serial run's to rounding (1e-5, relative, in fp32).

    Args:
        ulysses: Devices that exchange tokens for heads; at most the number of heads.
        ring: Devices among which keys and values go round.
        cfg: 2 gives each guidance branch devices of its own.
        overlap: PipeSP: heads are attended in so many parts, the result of one travelling while
            the next is computed. ``auto`` does so where it is predicted to win.
    """

    def __init__(
        self,
        ulysses: int | Literal["auto"] = "auto",
        ring: int | Literal["auto"] = "auto",
        cfg: int | Literal["auto"] = "auto",
        overlap: int | Literal["auto"] = 1,
    ) -> None:
        self.ulysses = ulysses
        self.ring = ring
        self.cfg = cfg
        self.overlap = overlap

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
