"""Run store: words that ranks leave for one another, kept by rank 0 or by its launcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final, final

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from longtake.errors import RankFailure

_LOOK: Final = 0.2
"""Seconds after which a rank that waits looks whether the others are well."""


@final
class RunStore:
    """The run's key-value store, whose loss is told as what it is: the end of the run.

    Args:
        store: Of the process group.
        rank: This rank.
        check: Raises where another rank is known to be gone; gets what is waited for, in words.
    """

    def __init__(self, store: Store, rank: int, check: Callable[[str], None]) -> None:
        self._store = store
        self._rank = rank
        self._check = check

    def say(self, key: str, word: str, purpose: str) -> None:
        """Leave a word.

        Args:
            key: Where.
            word: What.
            purpose: What for: ``ask rank 0 to end the run``.

        Raises:
            RankFailure: The store is gone.
        """
        with self._there(purpose):
            self._store.set(key, word)

    def heard(self, key: str, purpose: str) -> str | None:
        """Return a word, if it has been left.

        Raises:
            RankFailure: The store is gone.
        """
        with self._there(purpose):
            return self._store.get(key).decode() if self._store.check([key]) else None

    def wait(self, key: str, purpose: str, unless: str | None = None) -> str | None:
        """Wait for a word; return ``None`` where another one has been left, and this one is not.

        Args:
            key: Of the word.
            purpose: What it is waited for.
            unless: Key of the other one.

        Raises:
            RankFailure: The store, or another rank, is gone.
        """
        while (word := self.heard(key, purpose)) is None:
            if unless is not None and self.heard(unless, purpose) is not None:
                return self.heard(key, purpose)
            self._check(purpose)
            with self._there(purpose), suppress(dist.DistStoreError):  # not yet
                self._store.wait([key], timedelta(seconds=_LOOK))
        return word

    @contextmanager
    def _there(self, purpose: str) -> Iterator[None]:
        try:
            yield
        except dist.DistNetworkError as error:
            self._check(purpose)
            raise RankFailure(
                f"rank {self._rank} waited to {purpose}, but the run's store is gone, and with it "
                f"rank 0 or the launcher that kept it."
            ) from error
