"""Killed runs: a short seeded part; ``python -m tests.faults`` does as many as it is told."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults.cases import METHODS, Whole, content_of, left_in, moments, options, struck_run
from tests.faults.forked import Fault, run_forked
from tests.faults.test_signals import MIDST

WAYS = [(1, 1, 1), (2, 1, 2), (1, 3, 2, 1)]
"""Ranks of the processes, each but the last one killed."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way)))
def test_a_killed_run_goes_on_to_the_same_bytes(
    method: str, way: tuple[int, ...], model: Path, whole: dict[str, Whole], tmp_path: Path
) -> None:
    # All ranks in the first process, one rank alone in those after it.
    *early, late = moments(sum(way) + 10 * len(method), len(way) - 1, whole[method].seconds)
    faults = [(way[0], Fault(late))]
    for ranks, moment in zip(way[1:-1], early, strict=True):
        faults.append((ranks, Fault(moment, rank=ranks - 1)))
    outcome = struck_run(model, method, tmp_path / "out", whole[method], faults, way[-1])
    assert outcome.is_well, f"{outcome.strikes} strikes, left {outcome.left}: {outcome.said}"


def test_a_killed_run_with_decode_ranks_goes_on(
    model: Path, whole: dict[str, Whole], tmp_path: Path
) -> None:
    early, late = moments(7, 2, whole["queue"].seconds)
    faults = [(3, Fault(late)), (2, Fault(early + late / 2))]
    outcome = struck_run(model, "queue", tmp_path / "out", whole["queue"], faults, 3, 1)
    assert outcome.is_well, f"{outcome.strikes} strikes, left {outcome.left}: {outcome.said}"


def test_an_animation_is_made_again_from_the_journal(model: Path, tmp_path: Path) -> None:
    """Its container cannot be gone on with; its bytes are those of an undisturbed run all the
    same.
    """
    one = [*options(model, "queue", 1), "--video.format", "gif"]
    whole, out, log = tmp_path / "whole", tmp_path / "out", tmp_path / "log"
    made = run_forked([*one, "--output", str(whole)], log)
    assert made.statuses == (0,), made.said
    run = [*one, "--output", str(out), "--resume", "auto"]
    run[run.index("none")] = "plain"
    struck = run_forked(run, log, 1, Fault(0.0, said=MIDST))
    assert struck.statuses == (-signal.SIGKILL,)
    ended = run_forked(run, log)
    assert ended.statuses == (0,), ended.said
    assert content_of(out) == content_of(whole)
    assert "0000/video.gif" in content_of(out)
    assert not left_in(out)
