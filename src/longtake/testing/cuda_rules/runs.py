"""Runs under CUDA's rules: whole videos on emulated devices, over meshes and methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from math import prod
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import torch
from torch import Tensor

from longtake.caches import FeatureCache, NextBlockKV, NoCache, RollingKV, SameStepKV
from longtake.comm.transport import Transport
from longtake.framework import Engine, FramesDecoded, GenerationConfig, PromptAt, Request
from longtake.noise import Independent
from longtake.schedulers import Autoregressive, CascadeQueue, ContextWindows, FifoQueue
from longtake.strategies import (
    Communicator,
    DualParal,
    ParallelStrategy,
    SequenceParallel,
    SingleDevice,
)
from longtake.testing.cuda_rules.device import Drain, EmulatedDevice, Hang
from longtake.testing.cuda_rules.order import Sent
from longtake.testing.cuda_rules.transport import EmulatedTransport, emulated_ranks

MESHES: Final = (
    "stages 2",
    "stages 3",
    "stages 2, apart",
    "stages 1, cfg 2",
    "stages 2, cfg 2",
    "stages 2, ulysses 2",
    "stages 2, ring 2",
    "cfg 2",
    "ulysses 2",
    "ulysses 2, overlap 2",
    "ring 2",
    "ulysses 2, ring 2",
    "cfg 2, ulysses 2",
)
_ATTENDED_TOGETHER: Final = ("cfg 2", "ulysses 2", "cfg 2, ulysses 2")
"""Meshes whose heads decode ranks may attend."""
CACHES: Final[dict[str, FeatureCache]] = {
    "next-block": NextBlockKV(),
    "same-step": SameStepKV(),
    "none": NoCache(),
    "rolling": RollingKV(5, 1),
}
_CAUSAL: Final[dict[str, Any]] = {
    "noise": Independent(),
    "sampler": "FlowMatchEulerDiscreteScheduler",
}
METHODS: Final[dict[str, dict[str, Any]]] = {
    "queue": {"scheduler": FifoQueue(2, 1)},
    "autoregressive": {"scheduler": Autoregressive(2), **_CAUSAL},
    "cascade": {"scheduler": CascadeQueue(2), **_CAUSAL},
    "context windows": {"scheduler": ContextWindows(4, 2)},
}
"""Settings by method."""
_CACHES_OF: Final = {
    "queue": ("next-block", "same-step", "none"),
    "autoregressive": ("rolling",),
    "cascade": ("rolling",),
    "context windows": ("none",),
}
"""Names of the caches that fit each method."""
DECODERS: Final = (0, 1, 2)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A run.

    Args:
        mesh: One of ``MESHES``; those of ``stages`` are DualParal's.
        method: One of ``METHODS``.
        cache: One of ``CACHES``, that fits the method.
        decoders: Decode ranks; two of them share a VAE's tiles.
        aco: Whether they attend heads.
    """

    mesh: str
    method: str = "queue"
    cache: str
    decoders: int
    aco: bool

    def __str__(self) -> str:
        """Name the run."""
        aco = ", aco" if self.aco else ""
        return f"{self.mesh}; {self.method}; {self.cache}; {self.decoders} decode{aco}"

    @property
    def strategy(self) -> ParallelStrategy:
        """Where things run."""
        degrees = self._degrees
        cfg, ulysses, ring = (degrees.get(name, 1) for name in ("cfg", "ulysses", "ring"))
        if "stages" in degrees:
            return DualParal(
                stages=degrees["stages"],
                cfg=cfg,
                guidance="apart" if "apart" in self.mesh else "together" if cfg == 1 else "auto",
                ulysses=ulysses,
                ring=ring,
                decode_devices=self.decoders,
            )
        return SequenceParallel(
            ulysses=ulysses,
            ring=ring,
            cfg=cfg,
            overlap=degrees.get("overlap", 1),
            decode_devices=self.decoders,
            aco=self.aco,
        )

    @property
    def ranks(self) -> int:
        """How many."""
        degrees = self._degrees
        return prod(degrees[name] for name in degrees if name != "overlap") + self.decoders

    @property
    def _degrees(self) -> dict[str, int]:
        parts = (part.split(" ") for part in self.mesh.split(", "))
        return {part[0]: int(part[1]) for part in parts if len(part) == 2}

    @property
    def is_possible(self) -> bool:
        """Whether such a run may be asked for."""
        fits = self.cache in _CACHES_OF[self.method]
        attends = self.decoders > 0 and self.mesh in _ATTENDED_TOGETHER
        return fits and (attends or not self.aco)

    def generation_config(self, folder: Path) -> GenerationConfig:
        """Return the run's settings, with the model in a folder."""
        return GenerationConfig(
            pipeline=str(folder),
            cache=CACHES[self.cache],
            steps=2,
            dtype="float32",
            vae_tile=32 if self.decoders > 1 else None,
            **METHODS[self.method],
        )


REQUEST: Final = Request(prompts=(PromptAt(text="red shape"),), num_frames=21, height=32, width=48)
"""Three blocks."""


def cells(most_ranks: int = 6) -> list[Cell]:
    """Return the full product."""
    every = (
        Cell(mesh=mesh, method=method, cache=cache, decoders=decoders, aco=aco)
        for mesh, method, cache, decoders, aco in product(
            MESHES, METHODS, CACHES, DECODERS, (False, True)
        )
    )
    return [cell for cell in every if cell.is_possible and cell.ranks <= most_ranks]


def pairwise_cells(most_ranks: int) -> list[Cell]:
    """Return few runs in which every pair of values occurs that occurs in any run.

    Greedy, and always the same: each is the one with most pairs that are not there yet.
    """
    rest = cells(most_ranks)
    wanted = set().union(*map(_pairs, rest))
    chosen: list[Cell] = []
    while wanted:
        best = max(rest, key=lambda cell: (len(_pairs(cell) & wanted), -cell.ranks))
        wanted -= _pairs(best)
        chosen.append(best)
    return chosen


def _pairs(cell: Cell) -> set[tuple[tuple[int, object], tuple[int, object]]]:
    values = enumerate((cell.mesh, cell.method, cell.cache, cell.decoders, cell.aco))
    return set(combinations(values, 2))


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rank saw of a run.

    Args:
        frames: The video, on the output rank.
        hang: What would hang on a GPU.
        asked: How often the run itself has asked to wait for the whole device.
        drains: Waits for the whole device that found transfers begun.
        log: Messages in the order in which it began them.
    """

    frames: Tensor | None
    hang: str | None
    asked: int
    drains: list[Drain]
    log: list[Sent]


TransportOf: TypeAlias = Callable[[EmulatedDevice], Transport]


def run_cell(
    communicator: Communicator,
    cell: Cell,
    folder: Path,
    transport: TransportOf = EmulatedTransport,
    patience: float = 20.0,
) -> Outcome:
    """Make a video on emulated devices, as one rank of a pool.

    Args:
        communicator: The ranks of the pool.
        cell: What is run.
        folder: Of a tiny model.
        transport: Makes the one that is tried.
        patience: Seconds after which a wait counts as a hang.
    """
    device = EmulatedDevice(patience=patience)
    frames: list[Tensor] = []
    hang: str | None = None
    try:
        with emulated_ranks(communicator, device, transport) as ranks:
            frames += [one.frames for one in _decoded(ranks, cell, folder, device)]
    except Hang as found:
        hang = str(found)
    video = torch.cat(frames) if frames else None
    return Outcome(video, hang, device.asked, device.drains, device.log)


def _decoded(
    ranks: Communicator, cell: Cell, folder: Path, device: EmulatedDevice
) -> Iterator[FramesDecoded]:
    engine = Engine(
        cell.generation_config(folder),
        cell.strategy,
        world_size=ranks.world_size,
        rank=ranks.rank,
    )
    engine.check([REQUEST])
    engine.join(ranks)
    engine.load([REQUEST])
    with device.rules():
        for event in engine.generate(REQUEST):
            if isinstance(event, FramesDecoded):
                yield event


def is_serial(cell: Cell, outcome: Outcome, folder: Path) -> bool:
    """Whether the output rank's video is that of one device.

    Splits of tokens, heads and branches round otherwise, which may turn a color by one.
    """
    assert outcome.frames is not None
    frames = serial_frames(cell.method, cell.cache, cell.decoders > 1, folder)
    return bool((outcome.frames.int() - frames.int()).abs().max() <= 1)


@cache
def serial_frames(method: str, cache: str, tiled: bool, folder: Path) -> Tensor:
    """Return the video that one device makes."""
    cell = Cell(mesh=MESHES[0], method=method, cache=cache, decoders=2 * tiled, aco=False)
    engine = Engine(cell.generation_config(folder), SingleDevice())
    frames = [one.frames for one in engine.generate(REQUEST) if isinstance(one, FramesDecoded)]
    return torch.cat(frames)
