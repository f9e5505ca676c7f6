"""The walk of a schedule: as often as it is looked at, it is what playing it gives."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import final

import pytest
from typing_extensions import override

from longtake.caches import NextBlockKV, NoCache, RollingKV, forwards
from longtake.errors import ConfigurationError
from longtake.plan import walk as walk_module
from longtake.plan.walk import Walk
from longtake.schedulers import Autoregressive, BlockScheduler, FifoQueue
from longtake.task import FrameRange, Task, Video

QUEUE, VIDEO = FifoQueue(3, 2), Video(29, 4)
PLAYED = list(forwards(QUEUE.tasks(VIDEO), NextBlockKV()))


@pytest.fixture(params=[len(PLAYED) + 1, len(PLAYED), 7, 1])
def walk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Walk:
    """A walk that keeps all of the schedule, or its first forwards."""
    monkeypatch.setattr(walk_module, "_KEPT", request.param)
    return Walk(QUEUE, NextBlockKV(), VIDEO)


def test_all_who_look_see_the_same_whoever_is_ahead(walk: Walk) -> None:
    first, second = iter(walk), iter(walk)
    seen = list(islice(first, 5))
    assert list(second) == PLAYED
    assert seen + list(first) == PLAYED
    assert list(walk.first_checked()) == PLAYED
    assert list(walk) == PLAYED


def test_an_endless_schedule_is_played_as_far_as_somebody_looks() -> None:
    endless = Walk(Autoregressive(2), RollingKV(6), Video(None, 4))
    played = forwards(Autoregressive(2).tasks(Video(None, 4)), RollingKV(6))
    assert list(islice(endless, 50)) == list(islice(played, 50))


@final
class Forgets(BlockScheduler):
    """A queue that ends before its last block is finished."""

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        return QUEUE.blocks(latent_frames)

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        return islice(QUEUE.tasks(video), len(PLAYED) - 1)

    @override
    def blocks_in_flight(self, video: Video) -> int:
        return QUEUE.blocks_in_flight(video)


def test_whoever_looks_at_a_wrong_schedule_is_refused() -> None:
    wrong = Walk(Forgets(), NoCache(), VIDEO)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="has 3 of 4 steps"):
            list(wrong)
