"""What is said of a store that is gone, and what a rank waits for in one that is there."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from longtake.comm.run_store import RunStore
from longtake.errors import RankFailure


def well(purpose: str) -> None:
    del purpose


def lost() -> RunStore:
    """Return a store whose keeper has gone."""
    keeper = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = TCPStore("127.0.0.1", keeper.port, is_master=False, wait_for_workers=False)
    del keeper
    return RunStore(store, 1, well)


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.heard("a", "hear it"),
        lambda store: store.wait("a", "hear it"),
        lambda store: store.wait("a", "hear it", unless="b"),
    ],
)
def test_a_store_that_is_gone_is_told_in_a_sentence(use: Callable[[RunStore], object]) -> None:
    with pytest.raises(RankFailure, match="rank 1 waited to hear it, but the run's store is gone"):
        use(lost())


def test_a_word_is_waited_for_until_it_is_said_or_another_one_is() -> None:
    inside = HashStore()
    store = RunStore(inside, 1, well)
    said = threading.Timer(0.05, lambda: inside.set("a", "7"))
    said.start()
    assert store.wait("a", "hear it", unless="b") == "7"
    assert store.heard("b", "hear it") is None
    inside.set("b", "")
    assert store.wait("c", "hear it", unless="b") is None
    assert store.wait("a", "hear it", unless="b") == "7"  # where both are there: what was asked for


def test_whoever_waits_hears_that_another_rank_is_gone() -> None:
    def check(purpose: str) -> None:
        raise RankFailure(f"rank 1 waited to {purpose}, but rank 2 failed.")

    with pytest.raises(RankFailure, match="waited to hear it, but rank 2 failed"):
        RunStore(HashStore(), 1, check).wait("a", "hear it")
