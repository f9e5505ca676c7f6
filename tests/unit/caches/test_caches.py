"""Feature caches: the contract for each of ours, and which windows they make."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from longtake.caches import (
    Chunk,
    Entry,
    FeatureCache,
    FeatureStore,
    Forward,
    Kept,
    NextBlockKV,
    NoCache,
    Read,
    RollingKV,
    SameStepKV,
    Window,
    forwards,
    peak_held_frames,
)
from longtake.caches.store import select
from longtake.schedulers import Autoregressive, FifoQueue
from longtake.schedulers.cascade_queue import CascadeQueue
from longtake.schedulers.rolling_window import RollingWindow
from longtake.task import FrameRange, Video
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


class TestRollingKV(FeatureCacheContract):
    """One block after another, and blocks in flight together."""

    schedules: ClassVar = {
        "autoregressive": (Autoregressive(3), 22, 3),
        "shorter-than-the-window": (Autoregressive(3), 7, 2),
        "one-block": (Autoregressive(3), 2, 3),
        "cascade": (CascadeQueue(3), 22, 5),
        "cascade-stride-2": (CascadeQueue(3, 2), 22, 5),
        "cascade-one-block-in-flight": (CascadeQueue(3, 6), 22, 5),
    }

    def cache(self) -> FeatureCache:
        return RollingKV(9, sinks=2)


class TestRollingKVWithMovedSinks(FeatureCacheContract):
    """As Rolling Forcing has it: a buffer of one block more than the window."""

    schedules: ClassVar = {
        "rolling-window": (RollingWindow(3), 31, 4),
        "ends-within-a-block": (RollingWindow(3), 29, 4),
        "fewer-blocks-than-steps": (RollingWindow(3), 8, 5),
        "one-step": (RollingWindow(3), 14, 1),
    }

    def cache(self) -> FeatureCache:
        return RollingKV(18, sinks=3, buffer=21, moved_sinks=True)


def forward_at(cache: FeatureCache, block: int, step: int) -> Forward:
    tasks = FifoQueue(4, 2).tasks(Video(40, 6))
    walk = forwards(tasks, cache)
    return next(f for f in walk if (f.task.block, f.task.step) == (block, step))


def number(block: int, step: int) -> int:
    """Return a task's number: iteration ``i`` runs blocks ``i, i - 1, ...`` of those in flight."""
    tasks = FifoQueue(4, 2).tasks(Video(40, 6))
    return next(task.index for task in tasks if (task.block, task.step) == (block, step))


def reads(index: int, *frames: int) -> tuple[Read, ...]:
    return tuple(Read(Entry(frame, index), frame) for frame in frames)


def entries(index: int, *frames: int) -> tuple[Entry, ...]:
    return tuple(Entry(frame, index) for frame in frames)


# Block 3 is frames 14:18 and runs step 2 while block 2 (10:14) runs step 3 and 4 (18:22) step 1.


def test_no_cache_recomputes_both_contexts() -> None:
    both = tuple(range(12, 20))
    assert forward_at(NoCache(), 3, 2).window == Window(frames=both, positions=both)
    # Block 4 has not entered: it has no latents to see.
    before = tuple(range(12, 18))
    assert forward_at(NoCache(), 3, 0).window == Window(frames=before, positions=before)


def test_next_block_kv_recomputes_before_and_reads_after() -> None:
    frames, here, after = tuple(range(12, 18)), number(3, 2), number(4, 1)
    assert forward_at(NextBlockKV(), 3, 2).window == Window(
        frames=frames,
        positions=frames,
        reads_after=reads(after, 18, 19),
        keeps=((Entry(14, here), Kept(2, reader=2)), (Entry(15, here), Kept(2, reader=2))),
        drops=entries(after, 18, 19),
    )


def test_same_step_kv_recomputes_neither() -> None:
    frames, here = (14, 15, 16, 17), number(3, 2)
    before, after = number(2, 2), number(4, 1)
    assert forward_at(SameStepKV(), 3, 2).window == Window(
        frames=frames,
        positions=frames,
        reads_before=reads(before, 12, 13),
        reads_after=reads(after, 18, 19),
        keeps=(
            (Entry(14, here), Kept(2, reader=2)),
            (Entry(15, here), Kept(2, reader=2)),
            (Entry(16, here), Kept(2, reader=4)),
            (Entry(17, here), Kept(2, reader=4)),
        ),
        drops=(*entries(before, 12, 13), *entries(after, 18, 19)),
    )


def test_a_finished_tail_is_kept_where_its_latents_are_forwarded() -> None:
    """In iteration 8, block 2 is finished: block 3 sees its last frames for the last time."""
    assert forward_at(NextBlockKV(), 3, 5).window.latents == (FrameRange(16, 18),)
    assert forward_at(NoCache(), 4, 4).window.latents == (FrameRange(12, 14),)
    assert forward_at(SameStepKV(), 4, 4).window.latents == ()


def test_a_block_whose_predecessor_is_finished_leaves_nothing_for_it() -> None:
    assert forward_at(NextBlockKV(), 3, 5).window.keeps == ()
    keeps = forward_at(SameStepKV(), 3, 5).window.keeps
    assert [entry.frame for entry, _ in keeps] == [16, 17], "the next block has yet to run it"


@pytest.mark.parametrize(
    ("cache", "frames"),
    [
        # Nothing ever outlives a task.
        (NoCache(), 0),
        # One head travels from a block to the one before it, at once.
        (NextBlockKV(), 8),
        # Of each of 10 blocks the 8 frames that are its head and its tail, until the next block's
        # step: it leaves as many as it takes.
        (SameStepKV(), 80),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, FeatureCache) else str(value),
)
def test_frames_held_with_ten_blocks_in_flight(cache: FeatureCache, frames: int) -> None:
    assert peak_held_frames(cache, FifoQueue(8, 8).tasks(Video(200, 10))) == frames


def test_a_store_gives_entries_as_often_as_they_are_read_and_drops_them() -> None:
    store, chunk = FeatureStore(), Chunk(4, 0)
    k, v = torch.randn(1, 6, 2, 4), torch.randn(1, 6, 2, 4)
    store.put(chunk, 0, select(k, [slice(0, 3)]), select(v, [slice(0, 3)]))
    assert store.chunks() == [(chunk, 0)]
    assert store.held_bytes == 2 * 3 * 2 * 4 * 4
    with pytest.raises(KeyError, match="kept already"):
        store.put(chunk, 0, k, v)
    for _ in range(2):
        kept_k, kept_v = store.get(chunk, 0)
        assert torch.equal(kept_k, k[:, :3])
        assert torch.equal(kept_v, v[:, :3])
    assert kept_k.untyped_storage().nbytes() < k.untyped_storage().nbytes(), "holds the window"
    store.drop(chunk, 0)
    for gone in (store.get, store.drop):
        with pytest.raises(KeyError):
            gone(chunk, 0)
    store.put(chunk, 0, k, v)
    store.clear()
    assert (store.chunks(), store.held_bytes) == ([], 0)


def test_a_store_drops_a_part_of_what_one_task_has_left() -> None:
    store, chunk = FeatureStore(), Chunk(4, 1)
    k, v = torch.randn(1, 6, 2, 4), torch.randn(1, 6, 2, 4)
    store.put(chunk, 0, k, v)
    store.drop(chunk, 0, [slice(0, 1), slice(3, 5)])
    kept_k, kept_v = store.get(chunk, 0)
    assert torch.equal(kept_k, k[:, [0, 3, 4]])
    assert torch.equal(kept_v, v[:, [0, 3, 4]])
    assert store.held_bytes == kept_k.untyped_storage().nbytes() * 2 == 2 * 3 * 2 * 4 * 4
