"""Watchdog: every rank learns within seconds that another one is gone or hangs, and why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, final

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from longtake.comm.activity import Activity, Overdue
from longtake.comm.awake_clock import AwakeClock
from longtake.errors import RankFailure

_BEAT: Final = 0.5
"""Seconds between two signs of life."""
_HEARD: Final = 2.0
"""Seconds in which every rank hears what has been told."""
_LOOK: Final = 0.05
"""Seconds after which rank 0 looks whether it is the last one."""
_GONE: Final = "gone"
"""The last sign of a rank that has ended well."""
_NOTHING: Final = "nothing"
"""What a rank does between two actions."""


@final
class Watchdog:
    """Tells the others that this rank lives and what it does, watches its neighbor and itself.

    Each rank watches the one after it, so two messages per beat and rank suffice, and publishes
    what it finds, so all hear of it. All through the run's store, which outlives the transport. A
    rank whose threads live beside a device that hangs is found by its own watchdog. Of a machine
    that is cut off, what is said to the store waits for minutes: a thread of its own judges.

    Args:
        store: The run's key-value store.
        rank: This rank.
        world_size: Number of ranks.
        stall: Seconds without a sign of life after which a rank counts as stalled.
        abandon: Called with the cause from another thread, when the rank has not come to ask for it
            within twice ``stall`` seconds: it hangs in a device, a transport or the store.
        activity: What this rank does.
        report: Called with a sentence on an action that takes too long.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        stall: float,
        abandon: Callable[[str], None] | None = None,
        activity: Activity | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self._store = PrefixStore("longtake/watch", store)
        self._rank = rank
        self._world_size = world_size
        self._neighbor = (rank + 1) % world_size
        self._stall = stall
        self._abandon = abandon
        self._activity = activity or Activity()
        self._late = _Late(report)
        self._cause: str | None = None
        self._told = False
        self._clock = AwakeClock()
        self._answered = self._clock.now()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="longtake-watch", daemon=True)
        self._judge = threading.Thread(target=self._end, name="longtake-judge", daemon=True)
        self._store.set(f"beat/{rank}", "0")
        self._store.set(f"doing/{rank}", _NOTHING)
        self._store.set(f"device/{rank}", _NOTHING)
        if rank == 0:
            self._store.set("failed", "")

    def start(self) -> None:
        """Begin to watch, once all ranks are about to. Collective.

        Raises:
            RankFailure: One of them has met the others, and has not come so far within the seconds
                after which it counts as stalled.
        """
        self._judge.start()
        begun = self._answered = self._clock.now()
        beats = {f"beat/{rank}": rank for rank in range(self._world_size)}
        while not self._are_there(list(beats)):
            self._answered = self._clock.now()
            if self._answered - begun > self._stall:
                self._closed.set()
                late = next(rank for beat, rank in beats.items() if not self._store.check([beat]))
                raise RankFailure(
                    f"rank {self._rank} has met rank {late}, which has given no sign of life for "
                    f"{self._stall:.0f} s since."
                )
        self._answered = self._clock.now()
        self._thread.start()

    def _are_there(self, keys: list[str]) -> bool:
        try:
            self._store.wait(keys, timedelta(seconds=_BEAT))
        except dist.DistStoreError:
            return False
        return True

    def cause(self) -> str | None:
        """Return why the run cannot go on, as far as this rank knows."""
        cause = self._found()
        self._told = cause is not None
        return cause

    def check(self, waiting_for: str) -> None:
        """Refuse to wait on when another rank is gone; see ``Communicator.check``."""
        cause = self.cause()
        if cause is not None:
            raise RankFailure(f"rank {self._rank} waited to {waiting_for}, but {cause}.")

    def _found(self) -> str | None:
        if self._cause is None and (silent := self._silent()) > self._stall:
            return f"rank 0, which keeps the run's store, has not answered for {silent:.0f} s"
        return self._cause

    def _silent(self) -> float:
        """Return for how many seconds the run's store has not answered."""
        return self._clock.now() - self._answered

    def find_cause(self) -> None:
        """Wait until it is known which rank is gone, or long enough to say that none is found."""
        deadline = time.monotonic() + self._stall + 2 * _BEAT
        while self.cause() is None and time.monotonic() < deadline:
            time.sleep(_BEAT)
        if self.cause() is None:
            self.fail("another rank is gone")

    def fail(self, cause: str) -> None:
        """Report to every rank that the run cannot go on. The first report is believed."""
        self._cause = cause
        if self._silent() > self._stall:
            return
        with suppress(RuntimeError, OSError):  # the store's rank may be the one that is gone
            self._cause = self._store.compare_set("failed", "", cause).decode()

    def last_actions(self) -> list[str]:
        """Return what every rank did at its last sign of life; nothing where the store is gone."""
        if self._silent() > self._stall:
            return []
        keys = [f"doing/{rank}" for rank in range(self._world_size)]
        with suppress(RuntimeError, OSError):
            found = [text.decode() for text in self._store.multi_get(keys)]
            return [
                f"rank {rank}: {text.partition(' ')[2] or text}" for rank, text in enumerate(found)
            ]
        return []

    def close(self, patience: float = 0.0) -> None:
        """Stop watching, and leave in good order: rank 0, which may keep the store, as the last.

        With the store goes what the others have yet to hear: where the run ends, and why.

        Args:
            patience: Seconds for which rank 0 waits for the others; no longer than they need to
                hear of it where one of them is gone.
        """
        until, bereft = time.monotonic() + patience, False
        while self._rank == 0 and time.monotonic() < until and not self._is_last():
            if not bereft and self._found() is not None:
                until, bereft = min(until, time.monotonic() + _HEARD), True
            time.sleep(_LOOK)
        self._closed.set()
        self._thread.join(timeout=2 * _BEAT)
        if self._thread.is_alive():
            return  # the store does not answer
        with suppress(RuntimeError, OSError):  # the store's rank may have ended first
            self._store.set(f"beat/{self._rank}", _GONE)

    def _is_last(self) -> bool:
        """Whether all other ranks have left in good order."""
        try:
            beats = self._store.multi_get([f"beat/{one}" for one in range(1, self._world_size)])
        except (RuntimeError, OSError):
            return True  # a launcher has kept the store, and is gone
        return all(beat.decode() == _GONE for beat in beats)

    def _run(self) -> None:
        beats, heard, heard_at = 0, "", self._clock.now()
        while not self._closed.wait(_BEAT):
            beats += 1
            try:
                beat, failed = self._exchange(beats)
                if self._cause is None:
                    self._look_at_itself()
            except (RuntimeError, OSError):
                break  # the store's rank is gone for good; ``cause`` says so when it is due
            now = self._answered = self._clock.now()
            if beat != heard:
                heard, heard_at = beat, now
            if failed:
                self._cause = failed
            elif self._cause is None and now - heard_at > self._stall and heard != _GONE:
                self.fail(f"rank {self._neighbor} gave no sign of life for {now - heard_at:.0f} s")

    def _exchange(self, beats: int) -> tuple[str, str]:
        """Give a sign of life; return the neighbor's, and why the run cannot go on."""
        doing, on_device = self._activity.doing, self._activity.on_device
        says = _NOTHING if doing is None else f"{doing.number} {doing.name}"
        device_says = _NOTHING if on_device is None else f"{on_device.number} {on_device.name}"
        store: Any = self._store  # torch's stub has forgotten multi_set
        keys = [f"{what}/{self._rank}" for what in ("beat", "doing", "device")]
        store.multi_set(keys, [str(beats), says, device_says])
        beat, failed = self._store.multi_get([f"beat/{self._neighbor}", "failed"])
        return beat.decode(), failed.decode()

    def _look_at_itself(self) -> None:
        overdue = self._activity.overdue()
        if overdue is None:
            return
        partner = overdue.doing.partner
        if overdue.hangs:
            partner = self._elsewhere(overdue)
            if partner is None:
                self.fail(f"rank {self._rank} hangs: it {overdue}")
                return
        theirs = "" if partner is None else self._store.get(f"doing/{partner}").decode()
        self._late.look(self._rank, overdue, partner, theirs)

    def _elsewhere(self, overdue: Overdue) -> int | None:
        """Return a rank that has yet to come to what this one waits in: then that is no hang."""
        what = "device" if overdue.on_device else "doing"
        for rank in overdue.doing.together:
            if _name(self._store.get(f"{what}/{rank}").decode()) != overdue.doing.name:
                return rank
        return None

    def _end(self) -> None:
        """Let the rank ask for the cause, or end; if it comes to neither, abandon it."""
        waited = 0.0
        while not self._closed.wait(_BEAT):
            self._activity.lose(self._clock.tick())
            cause = None if self._told else self._found()
            waited = 0.0 if cause is None else waited + _BEAT
            if cause is not None and waited > 2 * self._stall:
                if self._abandon is not None:
                    self._abandon(cause)
                return


@final
class _Late:
    """Reports an action that takes too long: once, and again each time that it has doubled.

    A rank that waits for another one has nothing to report as long as that one goes on.

    Args:
        report: Where to.
    """

    def __init__(self, report: Callable[[str], None] | None) -> None:
        self._report = report
        self._number = 0
        self._theirs = ""
        self._next = 0.0

    def look(self, rank: int, overdue: Overdue, partner: int | None, theirs: str) -> None:
        """Report, where it is time to.

        Args:
            rank: Whose action it is.
            overdue: The action.
            partner: The rank that it waits for.
            theirs: What that one does.
        """
        doing = overdue.doing
        if self._number != doing.number or self._theirs != theirs:
            # Where another rank is waited for: from now on it does the same.
            self._next = 2 * overdue.seconds if theirs else overdue.seconds
            self._number, self._theirs = doing.number, theirs
        if overdue.seconds < self._next or self._report is None:
            return
        self._next = 2 * overdue.seconds
        beside = "" if partner is None else f"; rank {partner} does {_name(theirs)}"
        self._report(f"rank {rank} {overdue}{beside}.")


def _name(says: str) -> str:
    """Return an action's name from what a rank says that it does."""
    return says.partition(" ")[2] or says
