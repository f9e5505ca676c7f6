"""Feature caches: the contract for each of ours, and which windows they make."""

from __future__ import annotations

import pytest
import torch

from longtake.caches import (
    FeatureCache,
    FeatureKey,
    FeatureStore,
    NextBlockKV,
    NoCache,
    Part,
    SameStepKV,
    Window,
    peak_held_frames,
)
from longtake.schedulers import FifoQueue
from longtake.task import FrameRange, Task
from longtake.testing.contracts import FeatureCacheContract


class TestNoCache(FeatureCacheContract):
    def cache(self) -> FeatureCache:
        return NoCache()


class TestNextBlockKV(FeatureCacheContract):
    def cache(self) -> FeatureCache:
        return NextBlockKV()


class TestSameStepKV(FeatureCacheContract):
    def cache(self) -> FeatureCache:
        return SameStepKV()


def task_at(block: int, step: int, latent_frames: int = 40) -> Task:
    tasks = FifoQueue(4, 2).tasks(latent_frames, 6)
    return next(task for task in tasks if (task.block, task.step) == (block, step))


def key(block: int, step: int, part: Part) -> FeatureKey:
    return FeatureKey(block=block, step=step, part=part)


# Block 3 is frames 14:18 and runs step 2 while block 2 (10:14) runs step 3 and 4 (18:22) step 1.


def test_no_cache_recomputes_both_contexts() -> None:
    own = FrameRange(14, 18)
    assert NoCache().window(task_at(3, 2)) == Window(frames=FrameRange(12, 20), own=own)
    # Block 4 has not entered: it has no latents to see.
    assert NoCache().window(task_at(3, 0)) == Window(frames=FrameRange(12, 18), own=own)


def test_next_block_kv_recomputes_before_and_reads_after() -> None:
    assert NextBlockKV().window(task_at(3, 2)) == Window(
        frames=FrameRange(12, 18),
        own=FrameRange(14, 18),
        reads_after=key(4, 1, Part.HEAD),
        keeps=((key(3, 2, Part.HEAD), FrameRange(14, 16)),),
    )


def test_same_step_kv_recomputes_neither() -> None:
    assert SameStepKV().window(task_at(3, 2)) == Window(
        frames=FrameRange(14, 18),
        own=FrameRange(14, 18),
        reads_before=key(2, 2, Part.TAIL),
        reads_after=key(4, 1, Part.HEAD),
        keeps=(
            (key(3, 2, Part.HEAD), FrameRange(14, 16)),
            (key(3, 2, Part.TAIL), FrameRange(16, 18)),
        ),
    )


def test_a_block_whose_predecessor_is_finished_leaves_nothing_for_it() -> None:
    assert NextBlockKV().window(task_at(3, 5)).keeps == ()
    parts = [kept.part for kept, _ in SameStepKV().window(task_at(3, 5)).keeps]
    assert parts == [Part.TAIL], "the next block has yet to run this step"


@pytest.mark.parametrize(
    ("cache", "frames"),
    [
        # Nothing ever outlives a task.
        (NoCache(), 0),
        # One head travels from a block to the one before it, at once.
        (NextBlockKV(), 8),
        # 9 tails wait for the next iteration, and the newest block's tail and head come on top.
        (SameStepKV(), 88),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, FeatureCache) else str(value),
)
def test_frames_held_with_ten_blocks_in_flight(cache: FeatureCache, frames: int) -> None:
    assert peak_held_frames(cache, FifoQueue(8, 8).tasks(200, 10)) == frames


def test_a_store_gives_every_entry_once() -> None:
    store, entry = FeatureStore(), key(1, 0, Part.HEAD)
    k, v = torch.randn(1, 6, 2, 4), torch.randn(1, 6, 2, 4)
    store.put(entry, 0, k[:, :3], v[:, :3])
    assert store.keys() == [(entry, 0)]
    assert store.held_bytes == 2 * 3 * 2 * 4 * 4
    with pytest.raises(KeyError, match="kept already"):
        store.put(entry, 0, k, v)
    kept_k, kept_v = store.take(entry, 0)
    assert torch.equal(kept_k, k[:, :3])
    assert torch.equal(kept_v, v[:, :3])
    assert kept_k.untyped_storage().nbytes() < k.untyped_storage().nbytes(), "holds the window"
    with pytest.raises(KeyError):
        store.take(entry, 0)
    store.put(entry, 0, k, v)
    store.clear()
    assert (store.keys(), store.held_bytes) == ([], 0)


def test_the_budget_names_a_read_of_nothing() -> None:
    tasks = list(FifoQueue(4, 2).tasks(40, 6))
    with pytest.raises(KeyError):
        peak_held_frames(SameStepKV(), tasks[5:])
