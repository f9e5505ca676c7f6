"""Noise initialization contract suite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import count, islice

import torch
from torch import Tensor

from longtake.noise import NoiseInit, NoiseSource
from longtake.task import FrameRange

CUT = [FrameRange(0, 5), FrameRange(5, 8), FrameRange(8, 11), FrameRange(11, 13)]
"""A longer first block and a shorter last one, as ``FifoQueue`` cuts."""


class NoiseInitContract(ABC):
    """What every noise initialization must do."""

    @abstractmethod
    def noise(self) -> NoiseInit:
        """Return a new noise initialization."""

    def test_every_block_gets_fp32_latents_of_its_length_on_the_cpu(self) -> None:
        """One ``(1, C, F, H, W)`` tensor per block."""
        blocks = self._blocks()
        assert [tuple(block.shape) for block in blocks] == [(1, 4, len(f), 6, 8) for f in CUT]
        assert {block.dtype for block in blocks} == {torch.float32}
        assert {block.device.type for block in blocks} == {"cpu"}

    def test_noise_is_a_function_of_seed_and_block(self) -> None:
        """The same numbers every time; others for another seed."""
        first = torch.cat(self._blocks(), dim=2)
        assert torch.equal(first, torch.cat(self._blocks(), dim=2)), "not repeatable"
        drawn = torch.cat(self._blocks(_source(seed=8)), dim=2)
        assert not torch.isclose(first, drawn).float().mean() > 0.01, "same noise"

    def test_noise_does_not_depend_on_how_long_the_video_is(self) -> None:
        """What block ``b`` gets does not depend on the blocks after it."""
        for blocks in (1, 2, 3):
            begin = self._blocks(cut=CUT[:blocks])
            pairs = zip(begin, self._blocks(), strict=False)
            assert all(torch.equal(a, b) for a, b in pairs), f"{blocks} blocks differ from 4"

    def test_blocks_do_not_repeat_one_another(self) -> None:
        """Equal noise in adjacent blocks would show as a repeating video."""
        cut = [FrameRange(0, 12), *(FrameRange(12 * b, 12 * b + 12) for b in range(1, 6))]
        blocks = self._blocks(cut=cut)
        for b, block in enumerate(blocks[1:], start=1):
            assert not torch.equal(block, blocks[b - 1]), f"blocks {b - 1} and {b} are equal"

    def test_noise_is_standard_normal(self) -> None:
        """Mean 0, deviation 1."""
        source = NoiseSource(seed=0, channels=4, height=64, width=64)
        drawn = torch.cat(self._blocks(source), dim=2)
        # A pool of 5 frames holds 80,000 numbers: the mean's deviation is 0.004.
        assert abs(drawn.mean().item()) < 0.03
        assert abs(drawn.std().item() - 1) < 0.03

    def test_an_endless_video_is_served_lazily(self) -> None:
        """Block ``b`` is drawn when it is asked for: the cut is read one block ahead at most."""
        read: list[int] = []

        def endless() -> Iterator[FrameRange]:
            for block in count():
                read.append(block)
                yield FrameRange(3 * block, 3 * block + 3)

        stream = self.noise().blocks(_source(), endless())
        for wanted in range(1, 5):
            next(stream)
            assert len(read) <= wanted + 1, f"{len(read)} blocks read for the noise of {wanted}"

    def test_requests_drawn_in_turns_do_not_disturb_each_other(self) -> None:
        """One instance serves several requests; its state is in the stream, not in itself."""
        noise = self.noise()
        streams = [noise.blocks(_source(seed=seed), CUT) for seed in (7, 8)]
        turns = list(zip(*streams, strict=True))
        for place, seed in enumerate((7, 8)):
            alone = self._blocks(_source(seed=seed))
            pairs = zip(turns, alone, strict=True)
            assert all(torch.equal(turn[place], block) for turn, block in pairs)

    def test_torch_global_generator_is_neither_read_nor_moved(self) -> None:
        """A rank that has drawn something else still gets the same noise."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            before = torch.get_rng_state()
            first = self._blocks()
            assert torch.equal(before, torch.get_rng_state()), "torch's global generator moved"
            torch.manual_seed(2)
            pairs = zip(first, self._blocks(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs), "depends on torch's global generator"

    def _blocks(
        self, source: NoiseSource | None = None, cut: Iterable[FrameRange] = CUT
    ) -> list[Tensor]:
        # Cloned: a block may be a view that a later one overwrites only in a broken implementation.
        stream = self.noise().blocks(source or _source(), cut)
        return [block.clone() for block in islice(stream, 100)]


def _source(seed: int = 7) -> NoiseSource:
    return NoiseSource(seed=seed, channels=4, height=6, width=8)
