"""Sequence parallelism against the serial run, alone and inside a pipeline."""

from __future__ import annotations

from typing import ClassVar

from longtake.strategies import DualParal, ParallelStrategy, SequenceParallel
from longtake.testing.contracts import ParallelStrategyContract

ROUNDING = 1e-5
"""Shares of tokens and heads change operand shapes, and a ring the order of summing; a few steps
with guidance amplify what is last-bit rounding in a layer."""


class Split(ParallelStrategyContract):
    """Two heads, windows of an odd number of latent frames: nothing divides."""

    tolerance = ROUNDING
    impossible: ClassVar[tuple[int, ...]] = (0, 7)


class TestUlysses2(Split):
    world_size = 2

    def strategy(self) -> ParallelStrategy:
        return SequenceParallel(ulysses=2, ring=1, cfg=1)


class TestUlyssesInChunks(Split):
    world_size = 2

    def strategy(self) -> ParallelStrategy:
        return SequenceParallel(ulysses=2, ring=1, cfg=1, overlap=2)


class TestRing3(Split):
    world_size = 3

    def strategy(self) -> ParallelStrategy:
        return SequenceParallel(ulysses=1, ring=3, cfg=1)


class TestUsp(Split):
    world_size = 4

    def strategy(self) -> ParallelStrategy:
        return SequenceParallel(ulysses=2, ring=2, cfg=1)


class TestCfgTimesUlysses(Split):
    world_size = 4
    refused = ("no-guidance",)

    def strategy(self) -> ParallelStrategy:
        return SequenceParallel(ulysses=2, ring=1, cfg=2)


class TestStagesTimesUlysses(Split):
    world_size = 4

    def strategy(self) -> ParallelStrategy:
        return DualParal(stages=2, ulysses=2, cfg=1, guidance="together")


class TestStagesTimesRing(Split):
    world_size = 4

    def strategy(self) -> ParallelStrategy:
        return DualParal(stages=2, ring=2, cfg=1, guidance="together")
