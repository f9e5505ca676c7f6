"""Kill table: ``python -m tests.faults --points 1000`` kills runs and prints what became of them.

Kill points are spread evenly over a run's processor time (with ``--real`` over its seconds), at
seeded moments, from its first instruction to its last: loading, denoising, snapshots, decoding,
writing, finishing. A run is killed several times, all its ranks or one of them, goes on with
another number of ranks each time, and is at last left alone: then its latents and videos must be
those of an undisturbed run, byte by byte, and nothing else may be left.

Most runs are forked from a server that has imported everything, one process per rank as torchrun
would start it; with ``--real`` the command is started as a user does, and one of its processes
killed. What became of a run is a line of ``--log``: the command started again goes on behind it,
and prints the table of all lines.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from longtake.testing.tiny.base import tiny_wan_folder
from tests.faults.cases import METHODS, Outcome, moments, struck_run, whole_run
from tests.faults.forked import Fault, run_forked, start_server
from tests.faults.real import run_real

COLUMNS = ("kill points", "runs", "survived", "bit-equal", "nothing left")
PATIENCE = 900.0
"""Seconds: many runs at once may share few cores."""


@dataclass(frozen=True)
class Case:
    """A run that is killed several times.

    Args:
        method: What is run.
        faults: Of each process: the number of ranks, which one is killed, and when, as a share of
            an undisturbed run's seconds, by the clock that the run is killed by.
        last: Ranks of the process that is left alone.
    """

    method: str
    faults: tuple[tuple[int, int | None, float], ...]
    last: int


def main() -> int:
    """Kill runs at seeded points; return 1 where something was lost or left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, help="kill points (1000; 100 with --real)")
    parser.add_argument("--kills", type=int, default=5, help="of a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=2, help="at most")
    parser.add_argument("--workers", type=int, default=1, help="runs at once")
    parser.add_argument("--every", type=int, default=20, help="runs after which a table is printed")
    parser.add_argument("--real", action="store_true", help="start the command as a user does")
    parser.add_argument("--log", type=Path, help="file of what became of each run")
    given = parser.parse_args()
    given.points = given.points or (100 if given.real else 1000)
    run = run_real if given.real else partial(run_forked, patience=PATIENCE)
    made = list(enumerate(cases(given)))
    random.Random(given.seed).shuffle(made)  # so that a part of the table says something
    key = {name: getattr(given, name) for name in ("points", "kills", "seed", "ranks", "real")}
    table = Table(key, given.log, given.every)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        model = tiny_wan_folder(base / "tiny").path
        if not given.real:
            start_server()
        wholes = {one: whole_run(model, one, base / f"whole-{one}", run) for one in METHODS}

        def strike(numbered: tuple[int, Case]) -> None:
            number, case = numbered
            whole, out = wholes[case.method], base / f"{number}"
            faults = [
                (ranks, Fault(share * whole.seconds, rank=rank))
                for ranks, rank, share in case.faults
            ]
            try:
                outcome = struck_run(model, case.method, out, whole, faults, case.last, run=run)
            except AssertionError as error:  # it hangs, or has left something
                outcome = Outcome(len(faults), 1, False, (), str(error))
            table.add(number, case.method, outcome)

        with ThreadPoolExecutor(given.workers) as pool:
            list(pool.map(strike, [one for one in made if one[0] not in table.numbers]))
    table.show()
    return int(not table.is_well)


def cases(given: argparse.Namespace) -> Iterator[Case]:
    """Yield the runs: the kill points of each method are one in each equal part of it."""
    for method in METHODS:
        chance = random.Random(f"{given.seed} {method}")
        points = moments(given.seed, -(-given.points // len(METHODS)), 1.0)
        chance.shuffle(points)
        for first in range(0, len(points), given.kills):
            faults = []
            for moment in points[first : first + given.kills]:
                ranks = chance.randint(1, given.ranks)
                faults.append((ranks, chance.choice([None, *range(ranks)]), moment))
            yield Case(method, tuple(faults), chance.randint(1, given.ranks))


class Table:
    """Counts outcomes, by method, also those of earlier commands.

    Args:
        key: What was asked for; lines of other requests are not counted.
        log: File with a line per run; ``None`` for none.
        every: Runs after which it is printed.
    """

    def __init__(self, key: dict[str, Any], log: Path | None, every: int) -> None:
        self._key, self._log, self._every = key, log, every
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self.numbers: set[int] = set()
        """Of the runs that are counted."""
        lines = log.read_text().splitlines() if log is not None and log.exists() else []
        for line in map(json.loads, lines):
            if line["key"] == key:
                self._count(line["number"], line["method"], Outcome(**line["outcome"]))

    @property
    def is_well(self) -> bool:
        """Whether nothing was lost or left."""
        return all(self._counts["all", name] == self._counts["all", "runs"] for name in COLUMNS[2:])

    def add(self, number: int, method: str, outcome: Outcome) -> None:
        """Count a run; say which one has lost or left something."""
        with self._lock:
            self._count(number, method, outcome)
            if self._log is not None:
                line = {"key": self._key, "number": number, "method": method}
                said = {"outcome": asdict(outcome) | {"said": outcome.said[-4000:]}}
                with self._log.open("a") as file:
                    file.write(json.dumps(line | said) + "\n")
            if not outcome.is_well:
                sys.stdout.write(f"run {number} ({method}): {outcome}\n")
            if self._counts["all", "runs"] % self._every == 0:
                self.show()

    def _count(self, number: int, method: str, outcome: Outcome) -> None:
        self.numbers.add(number)
        for row in (method, "all"):
            self._counts[row, "kill points"] += outcome.strikes
            self._counts[row, "runs"] += 1
            self._counts[row, "survived"] += outcome.status == 0
            self._counts[row, "bit-equal"] += outcome.equal
            self._counts[row, "nothing left"] += not outcome.left

    def show(self) -> None:
        """Print it."""
        sys.stdout.write(f"\n{'method':<10}" + "".join(f"{name:>14}" for name in COLUMNS) + "\n")
        for method in (*METHODS, "all"):
            row = "".join(f"{self._counts[method, name]:>14}" for name in COLUMNS)
            sys.stdout.write(f"{method:<10}{row}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
