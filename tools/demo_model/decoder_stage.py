"""Sharpens the autoencoder's decoder while its latents stay as they are.

The transformer is trained on the latents of the frozen encoder, so this stage may run after it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from demo_model import encode_stage, frames_vae, loop, vae_stage
from longtake.demo import shapes

BATCH = 6
NOISE = 0.15  # largest noise on the latents, relative to their spread

RECIPE = loop.GenerationConfig(
    stage="decoder", steps=1000, rate=1e-3, warmup=50, decay=0.0, average=0.995, save_every=200
)


def train(
    vae_folder: Path, encoded: Path, folder: Path, generation_config: loop.GenerationConfig = RECIPE
) -> None:
    """Runs the stage.

    Args:
        vae_folder: Checkpoints of the autoencoder.
        encoded: File of the encoded clips, for the latents' spread.
        folder: Where the decoder's checkpoints go.
        generation_config: How long and how fast.
    """
    vae = encode_stage.trained_vae(vae_folder)
    vae.decoder.requires_grad_(True).train()
    spread = load_file(encoded)["std"].view(1, -1, 1, 1, 1)

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, float]:
        clips = shapes.sample_clips(BATCH, generator)
        real = shapes.render_clips(clips, vae_stage.FRAMES)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = frames_vae.encode(vae, real)[0].float()
                share = NOISE * torch.rand(BATCH, 1, 1, 1, 1, generator=generator)
                latents += share * spread * torch.randn(latents.shape, generator=generator)
            made = frames_vae.decode(vae, latents).float()
        covered = shapes.coverage(clips, vae_stage.FRAMES)
        loss = vae_stage.reconstruction_loss(made, real, covered)
        return loss, float((made.detach() - real).square().mean())

    loop.train(vae.decoder, loss_of, generation_config, folder)
