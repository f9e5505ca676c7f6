"""An attention kernel of one's own on ranks: heads apart, keys around a ring, or refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import final

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.framework.engine.preflight import check_merges
from longtake.models import AttentionKernel
from longtake.strategies import (
    BlockDone,
    Communicator,
    Layout,
    Mesh,
    ParallelStrategy,
    SequenceParallel,
    SingleDevice,
)
from longtake.testing.contracts.strategy_cases import CASES
from longtake.testing.ranks import rank_pool
from longtake.testing.tiny.base import tiny_denoising

EXAMPLES = str(Path(__file__).parents[2] / "examples")
CASE = CASES["same-step-kv"]


@torch.no_grad()
def blocks_with_chunks(communicator: Communicator, strategy: ParallelStrategy) -> list[Tensor]:
    sys.path.insert(0, EXAMPLES)
    from own_attention import ByChunks

    layout = strategy.layout(communicator.world_size, CASE.workload)
    work = tiny_denoising(CASE, layout.layers(communicator.rank), communicator)
    work = replace(work, attention=ByChunks(17))
    events = strategy.run(work, layout, communicator.rank)
    return [event.latents for event in events if isinstance(event, BlockDone)]


@cache
def serial() -> list[Tensor]:
    return blocks_with_chunks(Communicator.alone(), SingleDevice())


@pytest.mark.parametrize("ulysses", [1, 2])
def test_a_video_is_that_of_the_serial_run(ulysses: int) -> None:
    strategy = SequenceParallel(ulysses=ulysses, ring=2 // ulysses, cfg=1)
    made = rank_pool(2).run(blocks_with_chunks, strategy)[0]
    assert len(made) == len(serial())
    for block, expected in zip(made, serial(), strict=True):  # to rounding: other shapes
        assert (block - expected).abs().max() <= 1e-5 * expected.abs().max()


@final
class Alone(AttentionKernel):
    @override
    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q


def test_a_ring_is_refused_for_a_kernel_that_cannot_be_merged() -> None:
    layout = Layout(mesh=Mesh(ring=2), stages=(range(4),), batches=(range(2),))
    with pytest.raises(ConfigurationError, match=r"Alone, .* ring of 2 .* set ring: 1"):
        check_merges(Alone(), layout)
    check_merges("native", layout)
    check_merges(Alone(), replace(layout, mesh=Mesh(ulysses=2)))
