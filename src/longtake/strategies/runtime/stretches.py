"""Stretches of a request: its tasks, split where it is cut."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import final

from longtake.caches import Forward
from longtake.strategies.runtime.cuts import Cuts
from longtake.task import Task


@final
class Stretches:
    """Gives a request's tasks one after another, up to the next cut.

    Args:
        forwards: In serial order; endless for an endless video.
        cuts: Where the request is cut; ``None``: nowhere.
    """

    def __init__(self, forwards: Iterator[Forward], cuts: Cuts | None) -> None:
        self._forwards = forwards
        self._cuts = cuts
        self._ahead: deque[Forward] = deque()
        self._last: Task | None = None

    def look(self, count: int) -> list[Forward]:
        """Return the next tasks, at most so many, without taking them."""
        self._ahead.extend(islice(self._forwards, max(0, count - len(self._ahead))))
        return list(islice(self._ahead, count))

    def take(self) -> Forward | None:
        """Return the next task of this stretch; ``None`` at its end."""
        ahead = self.look(1)
        if not ahead:
            return None
        task, last = ahead[0].task, self._last
        if self._cuts is not None and last is not None and self._cuts.falls_between(last, task):
            return None
        self._last = task
        return self._ahead.popleft()

    def go_on(self) -> bool:
        """Begin the next stretch; return whether there is one."""
        self._last = None
        return bool(self.look(1))

    @property
    def rest(self) -> Iterator[Forward]:
        """All tasks that have not been taken. To be read once, in place of ``take``."""
        return chain(self._ahead, self._forwards)
