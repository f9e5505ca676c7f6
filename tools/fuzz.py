"""Fuzzing of the command: hostile input of every kind, each of which must end in one sentence.

Each input runs ``longtake`` in a forked child with 4 GiB of memory and 20 s of a processor,
and must end with status 2 and one sentence, or do what it was asked to: no traceback, no hang, no
file outside the run's folder. What does not is kept in ``.work/fuzz``, with the command that
repeats it.

    python tools/fuzz.py                            # 10,000 inputs: hours
    python tools/fuzz.py --count 300 --seed 7       # a look, with another seed
    python tools/fuzz.py --count 200 --real         # through the real command
    python tools/fuzz.py --kind "model folders" --first 17 --count 1 --show
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

from longtake.threads import sleep_at_barriers

ROOT: Final = Path(__file__).resolve().parents[1]
GOOD: Final = ("refused", "made")
"""Verdicts that are as they should be."""
KEPT: Final = ROOT / ".work" / "fuzz"


def main(args: Sequence[str] | None = None) -> int:
    """Run the inputs, print a table, and return how many have not ended as they should."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="Inputs, over all kinds.")
    parser.add_argument("--seed", type=int, default=0, help="Of the inputs.")
    parser.add_argument("--first", type=int, default=0, help="Number of the first one.")
    parser.add_argument("--kind", help="One kind alone, as the table calls it.")
    parser.add_argument(
        "--patience",
        type=int,
        default=20,
        help="Seconds of a processor per input; ten times as many by the clock.",
    )
    parser.add_argument(
        "--real", action="store_true", help="Start a Python for each, as a shell does: slow."
    )
    parser.add_argument("--show", action="store_true", help="Print what every input has come to.")
    given = parser.parse_args(args)
    for ending in (signal.SIGINT, signal.SIGTERM):  # which a shell has its background ignore
        signal.signal(ending, signal.default_int_handler)
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    sleep_at_barriers(os.environ)
    table: dict[str, Counter[str]] = {}
    slowest: dict[str, float] = {}
    try:
        _run(given, table, slowest)
    except KeyboardInterrupt:
        print("interrupted: what has been run so far")
    _print(table, slowest)
    refused, made = (sum(counts[word] for counts in table.values()) for word in GOOD)
    return sum(counts.total() for counts in table.values()) - refused - made


def _run(
    given: argparse.Namespace, table: dict[str, Counter[str]], slowest: dict[str, float]
) -> None:
    """Run the inputs; count by kind what they have come to, and the seconds of the slowest."""
    # Here: these load PyTorch, which reads the variables.
    from hostile.cases import KINDS
    from hostile.runner import INPUTS, run
    from hostile.world import make_world

    kinds = [given.kind] if given.kind else list(KINDS)
    with tempfile.TemporaryDirectory() as place:
        world = make_world(Path(place) / "world")
        gc.collect()
        gc.freeze()  # what children would otherwise walk through, and so copy
        for number in range(given.first, given.first + given.count):
            kind, index = kinds[number % len(kinds)], number // len(kinds)
            folder = Path(place) / "case"
            (folder / INPUTS).mkdir(parents=True)
            case = KINDS[kind](Random(f"{given.seed}/{kind}/{index}"), world, folder)
            outcome = run(case, folder, given.patience, real=given.real)
            table.setdefault(kind, Counter())[outcome.verdict.value] += 1
            slowest[kind] = max(slowest.get(kind, 0.0), outcome.seconds)
            if given.show or not outcome.verdict.good:
                again = f'--kind "{kind}" --first {index} --count 1 --seed {given.seed} --show'
                print(f"{outcome.verdict}: python tools/fuzz.py {again}")
                print(_end(outcome.said), flush=True)
            if not outcome.verdict.good:
                kept = KEPT / f"{kind} {given.seed} {index}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(folder, kept, symlinks=True, ignore=_no_pipes)
                (kept / "command").write_text(repr((list(case.args), case.environment)))
            shutil.rmtree(folder)
            if (number + 1) % 100 == 0:
                print(f"{number + 1} inputs", file=sys.stderr, flush=True)


def _no_pipes(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_fifo()]


def _end(said: str) -> str:
    lines = said.strip().splitlines()
    return "\n".join(f"    {line[:300]}" for line in lines[-6:])


def _print(table: dict[str, Counter[str]], slowest: dict[str, float]) -> None:
    verdicts = sorted({verdict for counts in table.values() for verdict in counts})
    print(f"{'kind':16} {'inputs':>7} " + " ".join(f"{v:>12}" for v in verdicts) + "  slowest, s")
    for kind, counts in table.items():
        row = " ".join(f"{counts[verdict]:>12}" for verdict in verdicts)
        print(f"{kind:16} {counts.total():>7} {row} {slowest[kind]:>12.1f}")
    total: Counter[str] = sum(table.values(), Counter())
    row = " ".join(f"{total[verdict]:>12}" for verdict in verdicts)
    print(f"{'all':16} {total.total():>7} {row} {max(slowest.values(), default=0.0):>12.1f}")


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
