"""CUDA's rules over every combination of strategy, mesh, cache, decode ranks and co-attention.

``python tools/cuda_rules.py`` tries the transport that longtake has on emulated devices, over the
full product (the tests try a pairwise part of it), or ``--sample`` of it; ``--before`` also the one
that it had, which begins receives where they are posted. For each run: hangs, waits for the whole
device that found transfers begun, and the longest of them, and whether the video is that of one
device. The last lines are a table by mesh; its last row is that of ``docs/parallel.md``.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from longtake.testing.cuda_rules.order import misordered
from longtake.testing.cuda_rules.posted import PostedTransport
from longtake.testing.cuda_rules.runs import (
    Cell,
    TransportOf,
    cells,
    is_serial,
    pairwise_cells,
    run_cell,
)
from longtake.testing.cuda_rules.transport import EmulatedTransport
from longtake.testing.ranks import RankPool
from longtake.testing.tiny.base import tiny_wan_folder

AFTER: Final = "begun when both sides are there"
BEFORE: Final = "begun where they are posted"
PATIENCE: Final = {AFTER: 20.0, BEFORE: 3.0}
"""Seconds after which a wait counts as a hang."""


COLUMNS: Final = ("runs", "hang", "fail", "ask for a wait", "wrong order", "other video")


def tried(
    pool: RankPool, cell: Cell, folder: Path, name: str, transport: TransportOf
) -> Counter[str]:
    """Make one run, print what came of it, and count."""
    start = time.monotonic()
    try:
        outcomes = pool.run(run_cell, cell, folder, transport, PATIENCE[name])
    except AssertionError as error:  # a rank died or has not answered
        print(f"{name}; {cell}: fails: {error}", flush=True)
        return Counter(runs=1, fail=1)
    hangs = [outcome.hang for outcome in outcomes if outcome.hang is not None]
    drains = [drain for outcome in outcomes for drain in outcome.drains]
    longest = max((drain.seconds for drain in drains), default=0.0)
    wrong = [] if hangs else misordered([outcome.log for outcome in outcomes])
    same = bool(hangs) or is_serial(cell, outcomes[0], folder)
    says = f"hangs: {hangs[0]}" if hangs else f"{len(drains)} waits, at most {longest * 1e3:.0f} ms"
    says += "" if not wrong else "; wrong order: " + ", ".join(wrong)
    says += "" if same else "; another video than one device makes"
    print(f"{name}; {cell}: {says}; {time.monotonic() - start:.1f} s", flush=True)
    asked = any(outcome.asked for outcome in outcomes)
    figures = (1, bool(hangs), 0, asked, bool(wrong), not same)
    return Counter(dict(zip(COLUMNS, figures, strict=True)))


def print_table(counts: Mapping[tuple[str, str], Counter[str]]) -> None:
    """Print what came of the runs of each mesh, and of all, by transport."""
    print(f"\n| transfers are | mesh | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
    for transport in dict.fromkeys(transport for transport, _ in counts):
        rows = {mesh: count for (of, mesh), count in counts.items() if of == transport}
        for mesh, count in {**rows, "all": sum(rows.values(), Counter())}.items():
            figures = " | ".join(str(count[column]) for column in COLUMNS)
            print(f"| {transport} | {mesh} | {figures} |")


def main() -> None:
    """Try all runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", action="store_true", help="also the transport that was")
    parser.add_argument("--pairwise", action="store_true", help="only what the tests try")
    parser.add_argument("--ranks", type=int, default=6, help="the most that a run has")
    parser.add_argument("--sample", type=int, help="only so many runs, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = pairwise_cells(options.ranks) if options.pairwise else cells(options.ranks)
    drawn = len(every) if options.sample is None else min(options.sample, len(every))
    chosen = random.Random(options.seed).sample(every, drawn)
    transports: dict[str, TransportOf] = {AFTER: EmulatedTransport}
    if options.before:
        transports = {BEFORE: PostedTransport, AFTER: EmulatedTransport}
    counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tiny"
        tiny_wan_folder(folder)
        for ranks in sorted({cell.ranks for cell in chosen}):
            pool = RankPool(ranks, timeout=120.0)
            for cell in (cell for cell in chosen if cell.ranks == ranks):
                for name, transport in transports.items():
                    counts[name, cell.mesh] += tried(pool, cell, folder, name, transport)
            pool.close()
    print_table(counts)
    print(f"\n{drawn} of {len(every)} runs in {time.monotonic() - start:.0f} s.")
    wrong = ("hang", "fail", "wrong order", "other video")
    if any(count[what] for (of, _), count in counts.items() if of == AFTER for what in wrong):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
