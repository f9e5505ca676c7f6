"""Activity: what a rank does now, and how far its device has come; read by its watchdog."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, final

from longtake.comm.device_queue import Reached

_REMEMBERED: Final = 8
"""Actions of one kind whose slowest says what the next one will take: the first ones, in which
kernels are loaded and compiled, do not count for ever."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When an action takes too long.

    What it is expected to take is what the slowest of the last actions of its kind took. An action
    of which none has been done yet has no limit but ``first``, and is never taken for a hang.

    Args:
        report: Seconds before which nothing is reported, and
        report_times: how often the expected seconds.
        first: Seconds after which an action of a new kind is reported.
        hang: Seconds before which nothing is taken for a hang, and
        hang_times: how often the expected seconds.
    """

    report: float = 10.0
    report_times: float = 3.0
    first: float = 60.0
    hang: float = 120.0
    hang_times: float = 10.0


@final
@dataclass(frozen=True, slots=True)
class Doing:
    """An action under way.

    Args:
        number: How many the rank has begun.
        name: In words: ``compute block 3, step 4, ...``.
        kind: What tells actions of different cost apart.
        since: When it began, in seconds of ``time.monotonic``.
        partner: The rank that it waits for; ``None``: it waits for none.
        together: Ranks that do the same at the same time, and wait for one another within it.
    """

    number: int
    name: str
    kind: Hashable
    since: float
    partner: int | None
    together: tuple[int, ...]


@final
@dataclass(frozen=True, slots=True)
class Overdue:
    """An action that takes too long.

    Args:
        doing: Which one.
        seconds: What it has taken so far.
        expected: What it was expected to take; ``None``: no one knows.
        on_device: Whether the rank has queued it, and its device does not come to its end.
        hangs: Whether it is too late to hope.
    """

    doing: Doing
    seconds: float
    expected: float | None
    on_device: bool
    hangs: bool

    def __str__(self) -> str:
        """Say it: what is late, and by how much."""
        taken = f"for {self.seconds:.0f} s"
        if self.expected is not None:
            taken += f" (expected: {self.expected:.1f} s)"
        if self.on_device:
            return f"has queued, and its device has not finished, {self.doing.name} {taken}"
        return f"has been in {self.doing.name} {taken}"


@final
class Activity:
    """The actions of a rank. Its own thread writes, the watching thread reads.

    Args:
        limits: When an action takes too long.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.first_rank = 0
        """Of the replica whose ranks actions name: the others know them by the run's numbers."""
        self._limits = limits or Limits()
        self._number = 0
        self._doing: Doing | None = None
        self._queued: deque[tuple[Doing, Reached]] = deque()
        self._reached = self._lost = 0.0
        self._took: dict[tuple[bool, Hashable], deque[float]] = {}

    @contextmanager
    def action(
        self,
        name: str,
        kind: Hashable,
        partner: int | None = None,
        together: tuple[int, ...] = (),
    ) -> Iterator[None]:
        """Do an action; see ``Doing``."""
        self._number += 1
        partner = None if partner is None else self.first_rank + partner
        together = tuple(self.first_rank + rank for rank in together)
        doing = Doing(self._number, name, kind, self._now(), partner, together)
        self._doing = doing
        try:
            yield
            self._took_seconds(False, kind, self._now() - doing.since)
        finally:
            self._doing = None

    def lose(self, seconds: float) -> None:
        """Do not count seconds in which the process was stopped."""
        self._lost += seconds

    def _now(self) -> float:
        return time.monotonic() - self._lost

    def queued(self, reached: Reached) -> None:
        """Remember that the device has yet to finish the current action.

        Args:
            reached: Says whether it has.
        """
        assert self._doing is not None
        self._queued.append((self._doing, reached))

    @property
    def doing(self) -> Doing | None:
        """The action under way; ``None`` between two."""
        return self._doing

    @property
    def on_device(self) -> Doing | None:
        """The first action that the device has not finished, as far as ``overdue`` has seen."""
        return self._queued[0][0] if self._queued else None

    def overdue(self) -> Overdue | None:
        """Return what takes too long, if anything does: on the device first."""
        now = self._now()
        while self._queued and self._queued[0][1]():
            doing, _ = self._queued.popleft()
            self._took_seconds(True, doing.kind, now - max(doing.since, self._reached))
            self._reached = now
        if self._queued:
            doing = self._queued[0][0]
            if found := self._late(doing, now - max(doing.since, self._reached), True):
                return found
        current = self._doing
        return None if current is None else self._late(current, now - current.since, False)

    def _took_seconds(self, on_device: bool, kind: Hashable, seconds: float) -> None:
        took = self._took.setdefault((on_device, kind), deque(maxlen=_REMEMBERED))
        took.append(seconds)

    def _late(self, doing: Doing, seconds: float, on_device: bool) -> Overdue | None:
        limits, took = self._limits, tuple(self._took.get((on_device, doing.kind), ()))
        expected = max(took, default=None)
        if expected is None:
            if seconds <= limits.first:
                return None
            return Overdue(doing, seconds, None, on_device, hangs=False)
        if seconds <= max(limits.report, limits.report_times * expected):
            return None
        hangs = doing.partner is None and seconds > max(limits.hang, limits.hang_times * expected)
        return Overdue(doing, seconds, expected, on_device, hangs)
