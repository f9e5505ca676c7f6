"""Seconds per part of a run."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, final

ItemT = TypeVar("ItemT")


@final
class Timings:
    """Adds up wall-clock seconds by part: load, text, start, denoise, decode, write."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time inside the ``with`` block to ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def each(self, name: str, items: Iterator[ItemT]) -> Iterator[ItemT]:
        """Add the time inside ``items`` to ``name``, and none of the consumer's."""
        while True:
            with self.part(name):
                item = next(items, None)
            if item is None:
                return
            yield item
