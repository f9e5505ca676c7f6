"""Fault suite in full: ``python -m tests.faults --points 1000`` prints what became of each kind."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from longtake.testing.tiny.base import tiny_wan_folder
from tests.faults.cases import METHODS, Outcome, moments, struck_run, whole_run
from tests.faults.forked import Fault


def main() -> int:
    """Kill runs at seeded points; return 1 where something was lost or left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1000, help="kill points")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=2, help="at most")
    given = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        model = tiny_wan_folder(base / "tiny").path
        for method in METHODS:
            whole = whole_run(model, method, base / f"whole-{method}")
            chance = random.Random(f"{given.seed} {method}")
            points = given.points // (2 * len(METHODS))
            late = moments(given.seed, points, whole.seconds)
            for number, moment in enumerate(late):
                before, after, last = (chance.randint(1, given.ranks) for _ in range(3))
                faults = [
                    (before, Fault(moment)),
                    (after, Fault(chance.random() * whole.seconds, rank=chance.randrange(after))),
                ]
                out = base / f"{method}-{number}"
                outcome = struck_run(model, method, out, whole, faults, last)
                _count(counts, method, outcome)
                if not outcome.is_well:
                    failures.append(f"{method} {number} {faults} {last}: {outcome}")
                    sys.stdout.write(failures[-1] + "\n")
                    sys.stdout.flush()
    _show(counts)
    return int(bool(failures))


def _count(counts: Counter[tuple[str, str]], method: str, outcome: Outcome) -> None:
    counts[method, "runs"] += 1
    counts[method, "kills"] += outcome.strikes
    counts[method, "survived"] += outcome.status == 0
    counts[method, "bit-equal"] += outcome.equal
    counts[method, "nothing left"] += not outcome.left


def _show(counts: Counter[tuple[str, str]]) -> None:
    names = ("runs", "kills", "survived", "bit-equal", "nothing left")
    sys.stdout.write(f"{'method':<10}" + "".join(f"{name:>14}" for name in names) + "\n")
    for method in METHODS:
        row = "".join(f"{counts[method, name]:>14}" for name in names)
        sys.stdout.write(f"{method:<10}{row}\n")


if __name__ == "__main__":
    raise SystemExit(main())
