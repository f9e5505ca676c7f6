"""DualParal: layers over devices, blocks at different noise levels in flight between them."""

from __future__ import annotations

from typing import Literal, final

from typing_extensions import override

from longtake.plan.search.meshes import Asked
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
    """

    def __init__(
        self,
        stages: int | Literal["auto"] = "auto",
        cfg: int | Literal["auto"] = "auto",
        guidance: Literal["auto", "together", "apart"] = "auto",
        ulysses: int = 1,
        ring: int = 1,
        split: list[int] | None = None,
        decode_devices: int | Literal["auto"] = "auto",
    ) -> None:
        self.stages = stages
        self.cfg = cfg
        self.guidance = guidance
        self.ulysses = ulysses
        self.ring = ring
        self.split = split
        self.decode_devices = decode_devices

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
