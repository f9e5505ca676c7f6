"""Kill table: ``python -m tests.faults --points 1000`` kills runs and prints what became of them.

Kill points are spread evenly over a run, at seeded moments, from its first instruction to its
last: loading, denoising, snapshots, decoding, writing, finishing. A run is killed several times,
all its ranks or one of them, goes on with another number of ranks each time, and is at last left
alone: then its latents and videos must be those of an undisturbed run, byte by byte, and nothing
else may be left.

Most runs are forked from a server that has imported everything, one process per rank as torchrun
would start it; with ``--real`` the command is started as a user does, and its first process killed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from longtake.testing.tiny.base import tiny_wan_folder
from tests.faults.cases import METHODS, Outcome, Whole, moments, struck_run, whole_run
from tests.faults.forked import Fault, run_forked
from tests.faults.real import run_real

COLUMNS = ("kill points", "runs", "survived", "bit-equal", "nothing left")
PATIENCE = 900.0
"""Seconds: many runs at once may share few cores."""


@dataclass(frozen=True)
class Case:
    """A run that is killed several times.

    Args:
        method: What is run.
        faults: Of each process: the number of ranks, and what befalls it.
        last: Ranks of the process that is left alone.
    """

    method: str
    faults: list[tuple[int, Fault]]
    last: int


def main() -> int:
    """Kill runs at seeded points; return 1 where something was lost or left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1000, help="kill points")
    parser.add_argument("--kills", type=int, default=5, help="of a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=2, help="at most")
    parser.add_argument("--workers", type=int, default=1, help="runs at once")
    parser.add_argument("--every", type=int, default=20, help="runs after which a table is printed")
    parser.add_argument("--real", action="store_true", help="start the command as a user does")
    given = parser.parse_args()
    run = run_real if given.real else partial(run_forked, patience=PATIENCE)
    table = Table(given.every)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        model = tiny_wan_folder(base / "tiny").path
        wholes = {one: whole_run(model, one, base / f"whole-{one}", run) for one in METHODS}

        def strike(numbered: tuple[int, Case]) -> bool:
            number, case = numbered
            whole, out = wholes[case.method], base / f"{number}"
            outcome = struck_run(model, case.method, out, whole, case.faults, case.last, run=run)
            table.add(case, outcome)
            return outcome.is_well

        made = list(enumerate(cases(wholes, given)))
        random.Random(given.seed).shuffle(made)  # so that a part of the table says something
        with ThreadPoolExecutor(given.workers) as pool:
            failures = sum(not well for well in pool.map(strike, made))
    table.show()
    return int(bool(failures))


def cases(wholes: dict[str, Whole], given: argparse.Namespace) -> Iterator[Case]:
    """Yield the runs: the kill points of each method are one in each equal part of it."""
    for method, whole in wholes.items():
        chance = random.Random(f"{given.seed} {method}")
        points = moments(given.seed, -(-given.points // len(wholes)), whole.seconds)
        chance.shuffle(points)
        for first in range(0, len(points), given.kills):
            faults = []
            for moment in points[first : first + given.kills]:
                ranks = chance.randint(1, given.ranks)
                rank = chance.choice([None, *range(ranks)])
                faults.append((ranks, Fault(moment, rank=rank)))
            yield Case(method, faults, chance.randint(1, given.ranks))


class Table:
    """Counts outcomes, by method.

    Args:
        every: Runs after which it is printed.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, case: Case, outcome: Outcome) -> None:
        """Count a run; say which one has lost or left something."""
        with self._lock:
            for method in (case.method, "all"):
                self._counts[method, "kill points"] += outcome.strikes
                self._counts[method, "runs"] += 1
                self._counts[method, "survived"] += outcome.status == 0
                self._counts[method, "bit-equal"] += outcome.equal
                self._counts[method, "nothing left"] += not outcome.left
            if not outcome.is_well:
                sys.stdout.write(f"{case}: {outcome}\n")
            if self._counts["all", "runs"] % self._every == 0:
                self.show()

    def show(self) -> None:
        """Print it."""
        sys.stdout.write(f"\n{'method':<10}" + "".join(f"{name:>14}" for name in COLUMNS) + "\n")
        for method in (*METHODS, "all"):
            row = "".join(f"{self._counts[method, name]:>14}" for name in COLUMNS)
            sys.stdout.write(f"{method:<10}{row}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
