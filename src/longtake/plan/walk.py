"""Walk of a schedule: its forwards, found right, played once for all that look at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Final, final

from longtake.caches import FeatureCache, Forward, forwards
from longtake.errors import ConfigurationError
from longtake.plan.workload import Workload
from longtake.schedulers import BlockScheduler
from longtake.schedulers.check import checked
from longtake.task import Video

_KEPT: Final = 2048
"""Forwards that are kept; what comes after them is played anew by whoever asks for it."""
_REMEMBERED: Final = 3
"""Schedules that are walked once: those of a comparison's caches."""


@final
class Walk:
    """The forwards of a schedule in serial order; each iteration begins with the first one.

    Iterating raises ``ConfigurationError`` where the schedule is wrong or does not fit the cache.

    Args:
        scheduler: Cuts and orders.
        cache: How tasks see the rest.
        video: What the tasks are for.
    """

    def __init__(self, scheduler: BlockScheduler, cache: FeatureCache, video: Video) -> None:
        self._scheduler, self._cache, self._video = scheduler, cache, video
        self._rest = self._checked()
        self._first: list[Forward] = []
        self._refusal: ConfigurationError | None = None

    def __iter__(self) -> Iterator[Forward]:
        return self._from(self._checked)

    def first_checked(self) -> Iterator[Forward]:
        """Return the forwards, those behind the kept ones not found right: of very long videos."""
        return self._from(lambda: forwards(self._scheduler.tasks(self._video), self._cache))

    def _from(self, anew: Callable[[], Iterator[Forward]]) -> Iterator[Forward]:
        for place in range(_KEPT):
            if place == len(self._first) and not self._advance():
                return
            yield self._first[place]
        yield from islice(anew(), _KEPT, None)

    def _advance(self) -> bool:
        """Play one more task; return whether there was one."""
        if self._refusal is not None:
            raise self._refusal
        try:
            forward = next(self._rest, None)
        except ConfigurationError as refusal:
            self._refusal = refusal
            raise
        if forward is not None:
            self._first.append(forward)
        return forward is not None

    def _checked(self) -> Iterator[Forward]:
        return forwards(checked(self._scheduler, self._video), self._cache)


def walk_of(workload: Workload) -> Walk:
    """Return the walk of a workload's schedule, the same one for all that ask for it."""
    return walk(workload.scheduler, workload.cache, workload.video)


@lru_cache(maxsize=_REMEMBERED)
def walk(scheduler: BlockScheduler, cache: FeatureCache, video: Video) -> Walk:
    """Return the walk of a schedule, the same one for all that ask for it."""
    return Walk(scheduler, cache, video)
