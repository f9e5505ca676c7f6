"""Cost of methods, against figures worked out by hand."""

from __future__ import annotations

import pytest

from longtake.caches import FeatureCache, NextBlockKV, NoCache, RollingKV, SameStepKV
from longtake.plan.cost.methods import method_cost
from longtake.schedulers import Autoregressive, FifoQueue, FullSequence


def test_a_clip_passes_every_frame_once_a_step() -> None:
    cost = method_cost(FullSequence(), NoCache(), steps=5, latent_frames=9)
    assert (cost.passes, cost.keys, cost.first, cost.first_frames) == (5, 9, 45, 9)
    assert (cost.held, cost.flat, cost.endless) == (0, False, False)


def test_a_causal_block_takes_a_pass_more_than_it_has_steps() -> None:
    cost = method_cost(Autoregressive(3), RollingKV(6), steps=4, latent_frames=30)
    # 10 blocks of 4 steps, 9 clean passes; all but block 0's 5 forwards see 3 frames before.
    assert cost.passes == (40 + 9) * 3 / 30
    assert cost.keys == pytest.approx((5 * 3 + 44 * 6) / 49)
    assert (cost.first, cost.first_frames, cost.held, cost.widest) == (12, 3, 6, 6)
    assert cost.flat
    assert cost.endless


def test_a_cache_that_holds_the_whole_video_grows() -> None:
    cost = method_cost(Autoregressive(3), RollingKV(None), steps=2, latent_frames=30)
    assert not cost.flat
    assert cost.held == 27  # the last block has no clean pass


@pytest.mark.parametrize(
    ("cache", "recomputed"),
    # 3 blocks have one before, at both steps; 3 have one after, at the second step.
    [(NoCache(), 3 * 2 * 2 + 3 * 2), (NextBlockKV(), 3 * 2 * 2), (SameStepKV(), 0)],
)
def test_a_queue_recomputes_what_its_cache_does_not_keep(
    cache: FeatureCache, recomputed: int
) -> None:
    """Blocks of 4, 2, 2, 2 frames, contexts of 2, two steps: 20 own frames."""
    cost = method_cost(FifoQueue(2, 2), cache, steps=2, latent_frames=10)
    assert cost.passes == (20 + recomputed) / 10
