"""Trains the demo model from scratch (docstring to come)."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from demo_model import vae_stage


def main() -> None:
    """Runs the stages named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("vae", "encode", "dit", "export", "all"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.stage in ("vae", "all"):
        vae_stage.train(options.work / "vae")


if __name__ == "__main__":
    main()
