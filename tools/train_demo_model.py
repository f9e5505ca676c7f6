"""Trains the demo model from scratch, on the CPU, and writes it as a ``WanPipeline`` folder.

    python tools/train_demo_model.py all --work DIR --out src/longtake/assets/demo_model

TO BE FILLED
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from demo_model import decoder_stage, dit_stage, encode_stage, export_stage, vae_stage

THREADS = 2


def main() -> None:
    """Runs the stages named on the command line."""
    parser = argparse.ArgumentParser(description="Trains the demo model from scratch.")
    parser.add_argument("stage", choices=("vae", "encode", "dit", "decoder", "export", "all"))
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and encoded clips")
    parser.add_argument("--out", type=Path, help="folder to write (stages export and all)")
    options = parser.parse_args()
    if options.stage in ("export", "all") and options.out is None:
        parser.error("--out is needed for this stage")
    torch.set_num_threads(THREADS)
    vae, dit, decoder = (options.work / name for name in ("vae", "dit", "decoder"))
    encoded = options.work / "encoded.safetensors"
    if options.stage in ("vae", "all"):
        vae_stage.train(vae)
    if options.stage == "encode" or (options.stage == "all" and not encoded.exists()):
        encode_stage.encode(vae, encoded)
    if options.stage in ("dit", "all"):
        dit_stage.train(encoded, dit)
    if options.stage in ("decoder", "all"):
        decoder_stage.train(vae, encoded, decoder)
    if options.stage in ("export", "all"):
        export_stage.export(vae, encoded, dit, decoder, options.out)


if __name__ == "__main__":
    main()
