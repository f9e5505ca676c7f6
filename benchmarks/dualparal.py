"""Measures DualParal on two gloo ranks against what two processes can reach on this machine.

    python benchmarks/dualparal.py

A random-weight Wan in Wan 1.3B's proportions (feed-forward 5.8 times the model dim, head dim 128),
one thread per rank, sizes that make a stage's task take some tens of milliseconds. Alternating in
one run, on the same two processes:

- *alone*: the serial run on one rank, the other one idle;
- *twice*: two independent serial runs at once: over *alone*, the machine's own ceiling;
- *DualParal*: one run on both ranks, two stages; its latents must be those of *alone*, bit by bit.

Reported are the speed-ups (of *twice*: twice the work over its time) and the share of the ceiling
that DualParal reaches (bar: 0.95), the idle share of the stages, measured from the ranks' own
clocks, and the one that the simulator predicts for a machine of this speed (bar: 3 points apart).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.two_ranks import Size, report


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--height", type=int, default=8)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=16)
    options = vars(parser.parse_args())
    report(rounds=options.pop("rounds"), size=Size(**options))


if __name__ == "__main__":
    main()
