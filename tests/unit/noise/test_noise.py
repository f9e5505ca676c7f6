"""Noise initializations: the contract for each of ours, and DualParal's pool."""

from __future__ import annotations

import torch
from torch import Tensor

from longtake.noise import Independent, NoiseInit, NoiseSource, SharedPool
from longtake.schedulers import FifoQueue
from longtake.task import FrameRange
from longtake.testing.contracts import NoiseInitContract

SOURCE = NoiseSource(seed=3, channels=2, height=3, width=4)


class TestIndependent(NoiseInitContract):
    def noise(self) -> NoiseInit:
        return Independent()


class TestSharedPool(NoiseInitContract):
    def noise(self) -> NoiseInit:
        return SharedPool()


def pool_indices(pool: Tensor, block: Tensor) -> list[int]:
    """Return which pool latent each latent of ``block`` is."""
    found = []
    for frame in block.unbind(2):
        equal = [i for i, latent in enumerate(pool.unbind(2)) if torch.equal(latent, frame)]
        assert len(equal) == 1, "not a latent of the pool"
        found += equal
    return found


def test_every_block_is_a_permutation_of_pool_latents() -> None:
    first, *later = SharedPool().blocks(SOURCE, FifoQueue(5, 3).blocks(33))
    assert [len(pool_indices(first, block)) for block in later] == [5] * 5
    for block in later:
        indices = pool_indices(first, block)
        assert len(set(indices)) == len(indices), "a latent stands twice in one block"


def test_a_block_takes_what_its_predecessor_did_not_keep_at_its_end() -> None:
    """The kept tail moves to the front, so a block never meets its predecessor's last latents."""
    context = 3
    first, *later = SharedPool().blocks(SOURCE, FifoQueue(5, context).blocks(48))
    before = list(range(8))
    for block in later:
        indices = pool_indices(first, block)
        assert not set(indices) & set(before[-context:])
        # The whole pool, in order: what was kept, then the new block.
        assert sorted(indices + before[-context:]) == list(range(8))
        before = before[-context:] + indices


def test_a_short_last_block_takes_the_first_latents_of_a_whole_one() -> None:
    whole = list(SharedPool().blocks(SOURCE, FifoQueue(5, 3).blocks(18)))
    short = list(SharedPool().blocks(SOURCE, FifoQueue(5, 3).blocks(15)))
    assert [block.shape[2] for block in short] == [8, 5, 2]
    assert torch.equal(short[-1], whole[-1][:, :, :2])


def test_blocks_of_independent_noise_share_nothing() -> None:
    cut = [FrameRange(0, 2), FrameRange(2, 4)]
    first, second = Independent().blocks(SOURCE, cut)
    assert not torch.isclose(first, second).any()
