"""Trains the demo model from scratch, on the CPU, and writes it as a ``WanPipeline`` folder.

    python tools/train_demo_model.py all --work DIR --out src/longtake/assets/demo_model

GenerationConfig, in the order of the stages:

- ``vae``: an ``AutoencoderKLWan`` whose older taps in time are held at zero, so that it looks back
  two latent frames and stays stable for any length (``demo_model/frames_vae.py``). Clips of 17
  frames, 6 a step, bf16 autocast; values and edges of the picture, the shape and the first frame
  weighted more; a little noise on the latents.
- ``encode``: 2,400 clips of 97 frames to latents.
- ``dit``: a ``WanTransformer3DModel`` of 8 layers by flow matching, fp32: windows of 6 to 18 latent
  frames, in a share of the batches with the noise staggered as in block-wise sampling, and with
  text lengths from 16 to 512 tokens.
- ``decoder``: the autoencoder's decoder alone, sharpened on the frozen latents.
- ``export``: half precision safetensors.

Steps are counted, never timed; every random number depends on the seed, the stage and the step
only, so a run that was interrupted continues from its newest checkpoint as if it had not been.
Measured on 2 CPU cores that were shared with other work: see the model card in the output folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from demo_model import decoder_stage, dit_stage, encode_stage, export_stage, vae_stage

THREADS = 2
STAGES = ("vae", "encode", "dit", "decoder", "export", "all")


def main() -> None:
    """Runs the stages named on the command line."""
    parser = argparse.ArgumentParser(description="Trains the demo model from scratch.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and encoded clips")
    parser.add_argument("--out", type=Path, help="folder to write (stages export and all)")
    options = parser.parse_args()
    if options.stage in ("export", "all") and options.out is None:
        parser.error("--out is needed for this stage")
    torch.set_num_threads(THREADS)
    options.work.mkdir(parents=True, exist_ok=True)
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
