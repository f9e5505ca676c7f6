"""Encodes the clips the transformer is trained on, and measures the latents' mean and spread."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor

from demo_model import frames_vae, loop, vae_stage
from longtake.demo import shapes

CLIPS = 2400
FRAMES = 97  # 25 latent frames
BATCH = 8
SEED = 0


def trained_vae(folder: Path) -> AutoencoderKLWan:
    """The averaged autoencoder of the newest checkpoint in ``folder``."""
    vae = vae_stage.new_vae()
    loop.averaged(vae, folder)
    return vae.eval().requires_grad_(False)


def prompt_numbers(clips: shapes.Clips) -> Tensor:
    """Place of every clip's prompt in ``shapes.all_prompts()``, ``(B,)``."""
    number = clips.colors * len(shapes.SHAPES) + clips.shapes
    number = number * len(shapes.MOTIONS) + clips.motions
    return number * len(shapes.BACKGROUNDS) + clips.backgrounds


@torch.no_grad()
def encode(vae_folder: Path, target: Path) -> None:
    """Writes latents of mean 0 and spread 1 per channel, their statistics and prompt numbers.

    Args:
        vae_folder: Checkpoints of the autoencoder.
        target: File to write: ``latents (N, 8, 25, 8, 8)`` fp16, ``prompts (N,)``, ``mean`` and
            ``std`` ``(8,)``.
    """
    vae = trained_vae(vae_folder)
    parts, numbers, begin = [], [], time.monotonic()
    for index in range(CLIPS // BATCH):
        clips = shapes.sample_clips(BATCH, loop.generator(SEED, "encode", index))
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(frames_vae.encode(vae, shapes.render_clips(clips, FRAMES))[0].float())
        numbers.append(prompt_numbers(clips))
        done = index + 1
        if done % 50 == 0:
            left = (time.monotonic() - begin) / done * (CLIPS // BATCH - done)
            print(f"encode {done * BATCH}/{CLIPS} {left / 60.0:.1f} min left", flush=True)
    latents = torch.cat(parts)
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    latents = (latents - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)
    draft = target.with_suffix(".draft")
    save_file(
        {
            "latents": latents.half().contiguous(),
            "prompts": torch.cat(numbers),
            "mean": mean,
            "std": std,
        },
        draft,
    )
    os.replace(draft, target)
