"""Seconds per part of a run."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, final

ItemT = TypeVar("ItemT")


@final
class Timings:
    """Adds up wall-clock seconds by part: load, text, start, denoise, decode, write.

    Parts may run beside each other, in threads: their seconds are then more than the run's.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part, so far; 0 for others."""
        with self._lock:
            return defaultdict(float, self._seconds)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time inside the ``with`` block to ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            with self._lock:
                self._seconds[name] += took

    def each(self, name: str, items: Iterator[ItemT]) -> Iterator[ItemT]:
        """Add the time inside ``items`` to ``name``, and none of the consumer's."""
        while True:
            with self.part(name):
                item = next(items, None)
            if item is None:
                return
            yield item
