"""Measures CascadeQueue on two gloo ranks against what two processes can reach on this machine.

    OMP_NUM_THREADS=1 python benchmarks/cascade.py

A random-weight causal Wan in Wan 1.3B's proportions, blocks of 3 latent frames, 4 steps and a clean
pass, no guidance, sizes that make a task take about 250 ms. As in ``dualparal.py``, alternating in
one run on the same two processes: the serial run on one rank, two serial runs at once (over the
first, the machine's own ceiling), and one run on both ranks as two stages, whose latents must be
those of the serial run, bit by bit. Bar: 0.9 of the ceiling.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.two_ranks import Size, report

from longtake.caches import RollingKV
from longtake.noise import Independent
from longtake.schedulers import CascadeQueue

BLOCK = 3


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--height", type=int, default=22)
    parser.add_argument("--width", type=int, default=22)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--stride", type=int, default=1)
    options = vars(parser.parse_args())
    rounds, stride = options.pop("rounds"), options.pop("stride")
    size = Size(
        **options,
        block_frames=BLOCK,
        first_frames=0,
        scheduler=CascadeQueue(BLOCK, stride),
        cache=RollingKV(21),
        noise=Independent(),
        sampler="FlowMatchEulerDiscreteScheduler-stochastic",
        scale=1.0,
    )
    report(size, rounds)


if __name__ == "__main__":
    main()
