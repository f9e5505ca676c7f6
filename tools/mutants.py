"""Mutation testing: the share of small faults that the tests notice, with its interval.

``make mutants`` sets a seeded sample of faults into plan, schedulers, caches, noise and strategies,
one at a time: a sum for a product, another constant, a condition the other way round. For each the
tests that run the line are run, the fastest first, until one fails. Faults are set into copies,
never into the checkout. Not for CI: the standard sample takes hours.

    python tools/mutants.py --seed 0 --sample 200       # at most 3 hours on two cores
    python tools/mutants.py --seed 1 --sample 20        # a quick look

The first run also measures which tests run which lines, which takes as long as the tests under
coverage; it is kept in ``.work/mutants``. A test file that has changed is measured anew, all of
them with ``--remake`` if sources have changed as well.

How to read it: each line is a fault that was left unnoticed. It is either a missing test (write one
whose expected figure does not come from the code), or the same program in other words, or something
that no user can see; for the last two say so in ``tools/mutation/explained.toml``. They count as
unnoticed all the same, so the share is a lower bound. A new test is shown with a *fresh* seed: the
faults that it was written for are no sample any more.
"""

from __future__ import annotations

import argparse
import difflib
import math
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Final

from mutation.faults import PACKAGES, Fault, sample
from mutation.runs import Copy, Outcome
from mutation.tests_map import Test, TestsMap, load, test_files

ROOT: Final = Path(__file__).resolve().parents[1]
CACHE: Final = ROOT / ".work" / "mutants"
EXPLAINED: Final = Path(__file__).parent / "mutation" / "explained.toml"
STANDARD_SAMPLE: Final = 200


@dataclass(frozen=True, slots=True)
class Result:
    """What the tests made of a fault.

    Args:
        fault: The fault.
        outcome: What they made of it.
        tests: How many were chosen.
    """

    fault: Fault
    outcome: Outcome
    tests: int


def wilson(noticed: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    if not count:
        return 0.0, 1.0
    z, share = 1.959964, noticed / count
    middle = share + z**2 / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return (middle - spread) / (1 + z**2 / count), (middle + spread) / (1 + z**2 / count)


def fitting(tests: Sequence[Test], seconds: dict[Test, float], limit: float) -> list[Test]:
    """Return the first tests that together take at most half of the limit, and at least one."""
    chosen: list[Test] = []
    left = limit / 2
    for test in tests:
        left -= seconds[test]
        if chosen and left < 0:
            break
        chosen.append(test)
    return chosen


def changed_lines(fault: Fault) -> tuple[str, str]:
    """Return the lines that a fault changes, before and after, without indentation."""
    right = (ROOT / fault.file).read_text()
    lines = list(difflib.ndiff(right.splitlines(), fault.apply(right).splitlines()))
    was, becomes = (
        " ".join(line[2:].strip() for line in lines if line.startswith(sign))
        for sign in ("- ", "+ ")
    )
    return was, becomes


def run_all(
    faults: Sequence[Fault], tests_map: TestsMap, workloads: int, limit: float
) -> list[Result]:
    """Return what the tests make of every fault, so many at a time; says so as it goes."""
    with tempfile.TemporaryDirectory(prefix="longtake-mutants-") as folder:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for workload in range(workloads):
            copies.put(Copy(ROOT, Path(folder) / f"copy{workload}"))

        def chosen(fault: Fault) -> list[Test]:
            source = (ROOT / fault.file).read_text()
            tests = tests_map.tests_of(fault.file, fault.line, source)
            return fitting(tests, tests_map.seconds, limit)

        def result_of(fault: Fault) -> Result:
            tests = chosen(fault)
            if not tests:
                return Result(fault, Outcome.UNTESTED, 0)
            copy, begin = copies.get(), monotonic()
            try:
                outcome, _ = copy.test(fault, tests, limit)
            finally:
                copies.put(copy)
            print(
                f"{outcome:9} {fault.file}:{fault.line} {fault.operator.partition('/')[2]} "
                f"({len(tests)} tests, {monotonic() - begin:.0f} s)",
                flush=True,
            )
            return Result(fault, outcome, len(tests))

        _check_copy(copies, next(filter(None, map(chosen, faults)), []), limit)
        with ThreadPoolExecutor(workloads) as pool:
            return list(pool.map(result_of, faults))


def _check_copy(copies: SimpleQueue[Copy], tests: Sequence[Test], limit: float) -> None:
    """Refuse to go on if tests fail without a fault: every one of them would count as noticed."""
    copy = copies.get()
    outcome, said = copy.run(tests, limit) if tests else (Outcome.UNNOTICED, "")
    copies.put(copy)
    if outcome is not Outcome.UNNOTICED:
        raise SystemExit(f"without a fault, tests of a copy end as {outcome}:\n{said}")


def report(results: Sequence[Result]) -> str:
    """Return the share noticed and what is left."""
    outcomes = Counter(result.outcome for result in results)
    noticed = outcomes[Outcome.NOTICED] + outcomes[Outcome.TIMED_OUT]
    low, high = wilson(noticed, len(results))
    reasons = {
        (known["was"], known["becomes"]): known["why"]
        for known in tomllib.loads(EXPLAINED.read_text()).get("fault", [])
    }
    lines = [
        f"{noticed} of {len(results)} faults noticed: {noticed / max(1, len(results)):.0%} "
        f"(95 % interval {low:.0%} to {high:.0%}); {outcomes[Outcome.TIMED_OUT]} of them by time"
    ]
    for result in results:
        if result.outcome in {Outcome.UNNOTICED, Outcome.UNTESTED}:
            was, becomes = changed_lines(result.fault)
            place = f"{result.fault.file}:{result.fault.line}"
            lines += ["", f"{place} ({result.outcome}, {result.tests} tests)"]
            lines += [f"  - {was}", f"  + {becomes}"]
            lines += [f"  {reasons.get((was, becomes), 'no reason known: a test is missing')}"]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument(
        "--sample", type=int, default=STANDARD_SAMPLE, help="number of faults (default: 200)"
    )
    parser.add_argument(
        "--packages", nargs="+", default=list(PACKAGES), help="folders of src/longtake"
    )
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time (default: 2)")
    parser.add_argument(
        "--limit", type=float, default=300.0, help="seconds for a fault's tests; the slowest that "
        "do not fit into half of it are left out (default: 300)",
    )  # fmt: skip
    parser.add_argument("--tests", nargs="+", help="test files to choose from (default: all)")
    parser.add_argument("--remake", action="store_true", help="measure again if sources changed")
    parser.add_argument("--list", action="store_true", help="print the faults, run nothing")
    return parser.parse_args()


def main() -> int:
    """Run the command."""
    options = _arguments()
    faults = sample(ROOT, options.sample, options.seed, options.packages)
    if options.list:
        for fault in faults:
            was, becomes = changed_lines(fault)
            print(f"{fault.file}:{fault.line}\n  - {was}\n  + {becomes}")
        return 0
    tests_map = load(ROOT, CACHE, options.tests or test_files(ROOT), remake=options.remake)
    print(report(run_all(faults, tests_map, options.workloads, options.limit)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
