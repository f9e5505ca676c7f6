"""How many heads are given away: from what was measured, nothing where it is not worth it."""

from __future__ import annotations

import pytest

from longtake.strategies.pipedit.head_share import HeadShare, Rates

SIZE = (2, 16, 8)


def test_the_first_micro_task_is_measured_alone_and_the_next_with_the_papers_share() -> None:
    share = HeadShare(24, ranks=6, helpers=2)
    assert share.heads(SIZE) == 0
    share.measured(SIZE, Rates(24, 2.4, 0, 0.0))
    assert share.heads(SIZE) == 6, "all ranks attend as many heads"
    assert share.heads((1, 1, 0)) == 0, "another size has not been measured"


@pytest.mark.parametrize(
    ("alone", "given", "best"),
    [
        (0.1, 0.1, 12),  # one rank and one helper, transfers for nothing
        (0.1, 0.3, 6),  # a helper that serves three
        (0.1, 1.1, 2),
        (0.1, 2.5, 0),  # transfers take longer than all heads here
    ],
)
def test_the_share_is_the_fastest_one(alone: float, given: float, best: int) -> None:
    share = HeadShare(24, ranks=1, helpers=1)
    assert share.best(alone, given) == best
    share.measured(SIZE, Rates(24, 24 * alone, 0, 0.0))
    share.measured(SIZE, Rates(12, 12 * alone, 12, 12 * given))
    assert share.heads(SIZE) == best


def test_a_declined_size_is_tried_again_now_and_then() -> None:
    share = HeadShare(8, ranks=1, helpers=1)
    share.measured(SIZE, Rates(8, 0.8, 0, 0.0))
    share.measured(SIZE, Rates(4, 0.4, 4, 40.0))
    tried = [share.heads(SIZE) for _ in range(128)]
    assert tried == ([0] * 63 + [4]) * 2


def test_one_head_is_never_given_away() -> None:
    share = HeadShare(1, ranks=1, helpers=1)
    share.measured(SIZE, Rates(1, 9.0, 0, 0.0))
    assert share.heads(SIZE) == 0


def test_a_layer_that_is_held_up_counts_for_nothing() -> None:
    rates = [Rates(4, seconds, 2, waited) for seconds, waited in ((1.0, 3.0), (9.0, 99.0), (1, 3))]
    assert Rates.median(rates) == Rates(4, 1.0, 2, 3.0)
