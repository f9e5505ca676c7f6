"""Watchdog: every rank learns within seconds that another one is gone, and why."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, final

from torch.distributed.distributed_c10d import PrefixStore, Store

_BEAT: Final = 0.5
"""Seconds between two signs of life."""
_GONE: Final = "gone"
"""The last sign of a rank that has ended well."""


@final
class Watchdog:
    """Tells the others that this rank lives, watches its neighbor, and hears of failures.

    Each rank watches the one after it, so two messages per beat and rank suffice, and publishes
    what it finds, so all hear of it. All through the run's store, which outlives the transport.

    Args:
        store: The run's key-value store.
        rank: This rank.
        world_size: Number of ranks.
        stall: Seconds without a sign of life after which a rank counts as stalled.
        abandon: Called with the cause from the watching thread, when the rank has not come to ask
            for it within ``stall`` seconds: it hangs in a device or in a transport.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        stall: float,
        abandon: Callable[[str], None] | None = None,
    ) -> None:
        self._store = PrefixStore("longtake/watch", store)
        self._rank = rank
        self._neighbor = (rank + 1) % world_size
        self._stall = stall
        self._abandon = abandon
        self._cause: str | None = None
        self._told = False
        self._answered = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="longtake-watch", daemon=True)
        self._store.set(f"beat/{rank}", "0")
        if rank == 0:
            self._store.set("failed", "")

    def start(self) -> None:
        """Begin to watch. All ranks have made their watch by now."""
        self._thread.start()

    def cause(self) -> str | None:
        """Return why the run cannot go on, as far as this rank knows."""
        cause, silent = self._cause, time.monotonic() - self._answered
        if cause is None and silent > self._stall:
            cause = f"rank 0, which keeps the run's store, has not answered for {silent:.0f} s"
        self._told = cause is not None
        return cause

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
        with suppress(RuntimeError, OSError):  # the store's rank may be the one that is gone
            self._cause = self._store.compare_set("failed", "", cause).decode()

    def close(self) -> None:
        """Stop watching, and leave in good order."""
        self._closed.set()
        self._thread.join(timeout=2 * _BEAT)
        with suppress(RuntimeError, OSError):  # the store's rank may have ended first
            self._store.set(f"beat/{self._rank}", _GONE)

    def _run(self) -> None:
        beats, heard, heard_at = 0, "", time.monotonic()
        while self._cause is None and not self._closed.wait(_BEAT):
            beats += 1
            try:
                self._store.set(f"beat/{self._rank}", str(beats))
                beat, failed = self._store.multi_get([f"beat/{self._neighbor}", "failed"])
            except (RuntimeError, OSError):
                break  # the store's rank is gone for good; ``cause`` says so when it is due
            now = self._answered = time.monotonic()
            if beat.decode() != heard:
                heard, heard_at = beat.decode(), now
            if failed:
                self._cause = failed.decode()
            elif now - heard_at > self._stall and heard != _GONE:
                self.fail(f"rank {self._neighbor} gave no sign of life for {now - heard_at:.0f} s")
        if self._abandon is not None and not self._closed.is_set():
            self._give_up(self._abandon)

    def _give_up(self, abandon: Callable[[str], None]) -> None:
        """Wait for the rank to ask for the cause, or to end; if it does not, call ``abandon``."""
        waited = 0.0
        while not self._told and waited < 2 * self._stall:
            if self._closed.wait(_BEAT):
                return
            waited += _BEAT
        if not self._told:
            abandon(self._cause or "rank 0, which keeps the run's store, is gone")
