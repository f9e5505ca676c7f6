"""Schedulers, caches and models that do not fit each other are refused in a sentence."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from longtake.caches import AnchorKV, NoCache, RollingKV, SameStepKV, peak_held_frames
from longtake.errors import ConfigurationError
from longtake.plan.check.methods import check_method, unread
from longtake.schedulers import (
    Autoregressive,
    BlockScheduler,
    ContextWindows,
    DiffusionForcing,
    Extend,
    FifoQueue,
    FrameQueue,
    FullSequence,
    RollingWindow,
)
from longtake.task import Video
from longtake.testing.tiny.base import TinyCase

CAUSAL = TinyCase(scheduler=Autoregressive(2), cache=RollingKV(6, 1), scales=(2.0,))
ANCHORS = TinyCase(cache=AnchorKV(), scales=(2.0,))
MOVED = RollingKV(6, 1, 7, moved_sinks=True)
REFUSED: list[tuple[str, TinyCase, str]] = [
    (
        "nothing of the past is kept",
        replace(CAUSAL, cache=SameStepKV()),
        r"task 5 \(block 1, step 0\) of Autoregressive may see latent frames 0 to 1, but the cache "
        "SameStepKV keeps nothing of them",
    ),
    (
        "nothing but anchors is kept",
        replace(CAUSAL, cache=AnchorKV(SameStepKV())),
        "may see latent frames 1 to 1, but SameStepKV, which AnchorKV is around, keeps nothing",
    ),
    (
        "anchors that no window reads",
        replace(ANCHORS, scheduler=FullSequence(), latent_frames=5),
        "AnchorKV would keep the keys and values of 4 latent frames, none of which a task of "
        "FullSequence reads; choose the cache NoCache",
    ),
    (
        "anchors where another frame stands",
        replace(ANCHORS, scheduler=ContextWindows(4, 2), latent_frames=9),
        "AnchorKV shows it latent frame 0 at position 0, where another one is",
    ),
    (
        "several levels in a window",
        replace(CAUSAL, scheduler=RollingWindow(1)),
        "denoises frames at steps 0 to 1, but tiny Wan takes one timestep for all frames",
    ),
    (
        "clean frames in a noisy window",
        replace(CAUSAL, scheduler=Extend(4, 2), cache=NoCache()),
        r"task 4 \(block 1, step 0\) forwards latent frame 2 at another noise level",
    ),
    (
        "frames that each have a level",
        replace(CAUSAL, scheduler=FrameQueue(2, 2), cache=NoCache(), steps=4),
        "at another noise level than its own frames.*model.timesteps_per: frame",
    ),
    (
        "clean passes of two experts",
        replace(CAUSAL, scales=(2.0, 2.0)),
        "tiny Wan has 2 experts, each of which would need its own",
    ),
    (
        "blocks that do not fit the cache",
        replace(CAUSAL, cache=RollingKV(3, 2)),
        "RollingKV sees 3 latent frames with 2 sinks, but the scheduler denoises 2 at once",
    ),
]


@pytest.mark.parametrize(
    ("case", "sentence"), [(case, words) for _, case, words in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_does_not_fit_is_refused(case: TinyCase, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        check_method(case.workload)


def test_moved_sinks_need_keys_that_can_move() -> None:
    workload = replace(CAUSAL, cache=MOVED).workload
    check_method(workload)
    fixed = replace(workload, spec=replace(workload.spec, moves_keys=False))
    with pytest.raises(ConfigurationError, match="kept keys of tiny Wan cannot move along time"):
        check_method(fixed)


@pytest.mark.parametrize("latent_frames", [None, 4, 14])
def test_what_fits_is_not_refused(latent_frames: int | None) -> None:
    """Whatever the length: also where one block has nobody to be seen by."""
    check_method(replace(CAUSAL, latent_frames=latent_frames).workload)
    check_method(replace(CAUSAL, scheduler=FifoQueue(3, 2), latent_frames=latent_frames).workload)


def test_what_is_kept_in_vain_is_told_with_its_size() -> None:
    assert unread(CAUSAL.workload) is None
    told = unread(replace(CAUSAL, scheduler=FifoQueue(3, 2)).workload)
    assert told is not None
    assert "are kept by RollingKV and never read" in told


@pytest.mark.parametrize("scheduler", [DiffusionForcing(2, 2, 6), FifoQueue(3, 2)])
def test_frames_that_no_later_task_may_see_are_dropped(scheduler: BlockScheduler) -> None:
    peaks = [
        peak_held_frames(RollingKV(6), islice(scheduler.tasks(Video(None, 4)), count))
        for count in (100, 400)
    ]
    assert peaks[0] == peaks[1]
