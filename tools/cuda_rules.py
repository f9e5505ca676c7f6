"""CUDA's rules over every combination of strategy, mesh, cache, decode ranks and co-attention.

``python tools/cuda_rules.py`` tries the transport that longtake has on emulated devices, over the
full product (the tests try a pairwise part of it); ``--before`` also the one that it had, which
begins receives where they are posted. For each run: hangs, waits for the whole device that found
transfers begun, and the longest of them. The last lines are the table of ``docs/parallel.md``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from longtake.testing.cuda_rules.order import misordered
from longtake.testing.cuda_rules.posted import PostedTransport
from longtake.testing.cuda_rules.runs import Cell, TransportOf, cells, pairwise_cells, run_cell
from longtake.testing.cuda_rules.transport import EmulatedTransport
from longtake.testing.ranks import RankPool
from longtake.testing.tiny.base import tiny_wan_folder

AFTER: Final = "begun when both sides are there"
BEFORE: Final = "begun where they are posted"
PATIENCE: Final = {AFTER: 20.0, BEFORE: 3.0}
"""Seconds after which a wait counts as a hang."""


def tried(
    pool: RankPool, cell: Cell, folder: Path, name: str, transport: TransportOf
) -> Counter[str]:
    """Make one run, print what came of it, and count."""
    try:
        outcomes = pool.run(run_cell, cell, folder, transport, PATIENCE[name])
    except AssertionError:  # a rank that another one's hang has brought down
        found = Counter(runs=1, hangs=1)
        print(f"{name}; {cell}: hangs", flush=True)
        return found
    hangs = [outcome.hang for outcome in outcomes if outcome.hang is not None]
    drains = [drain for outcome in outcomes for drain in outcome.drains]
    longest = max((drain.seconds for drain in drains), default=0.0)
    wrong = [] if hangs else misordered([outcome.log for outcome in outcomes])
    says = f"hangs: {hangs[0]}" if hangs else f"{len(drains)} waits, at most {longest * 1e3:.0f} ms"
    print(
        f"{name}; {cell}: {says}{'; wrong order: ' + ', '.join(wrong) if wrong else ''}", flush=True
    )
    return Counter(
        runs=1,
        hangs=bool(hangs),
        asked=any(outcome.asked for outcome in outcomes),
        misordered=bool(wrong),
    )


def main() -> None:
    """Try all runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", action="store_true", help="also the transport that was")
    parser.add_argument("--pairwise", action="store_true", help="only what the tests try")
    parser.add_argument("--ranks", type=int, default=6, help="the most that a run has")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = pairwise_cells(options.ranks) if options.pairwise else cells(options.ranks)
    transports: dict[str, TransportOf] = {AFTER: EmulatedTransport}
    if options.before:
        transports = {BEFORE: PostedTransport, AFTER: EmulatedTransport}
    counts = {name: Counter[str]() for name in transports}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tiny"
        tiny_wan_folder(folder)
        for ranks in sorted({cell.ranks for cell in chosen}):
            pool = RankPool(ranks, timeout=120.0)
            for cell in (cell for cell in chosen if cell.ranks == ranks):
                for name, transport in transports.items():
                    counts[name] += tried(pool, cell, folder, name, transport)
            pool.close()
    print("\n| transfers are | runs | hang | ask for a wait | wrong order |\n|---|---|---|---|---|")
    for name, count in counts.items():
        figures = (count[what] for what in ("runs", "hangs", "asked", "misordered"))
        print(f"| {name} | {' | '.join(map(str, figures))} |")
    if counts[AFTER]["hangs"] or counts[AFTER]["misordered"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
