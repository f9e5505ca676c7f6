"""Trains the demo model's autoencoder on short clips."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional as F

from demo_model import frames_vae, loop
from longtake.demo import shapes

BATCH = 6
FRAMES = 17  # five latent frames; the last two depend on nothing outside of the clip
KL = 1e-4
NOISE = 0.15  # largest noise on the latents, relative to their spread: what a sampler leaves over

RECIPE = loop.GenerationConfig(
    stage="vae", steps=3600, rate=1.5e-3, warmup=100, decay=1e-4, average=0.998
)


def new_vae() -> AutoencoderKLWan:
    """An untrained autoencoder: 8 x 8 pixels and 4 frames to one latent of 8 channels."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=24,
        z_dim=8,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True, True],
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=8,
        scale_factor_temporal=4,
    )
    frames_vae.zero_older_taps(vae)
    return vae


def _weights(covered: Tensor) -> Tensor:
    """Weights of the pixels: more on and around the shape and in the first frame.

    Args:
        covered: Share of each pixel that the shape covers, ``(B, F, H, W)``.
    """
    near = F.max_pool2d(covered, 7, stride=1, padding=3)
    weight = 1.0 + 3.0 * near
    weight[:, 0] *= 3.0  # a latent frame of its own, one seventeenth of the pixels
    return (weight / weight.mean())[:, None]


def reconstruction_loss(made: Tensor, real: Tensor, covered: Tensor) -> Tensor:
    """Weighted distance of two videos ``(B, 3, F, H, W)``, of their values and of their edges."""
    error = made - real
    weight = _weights(covered)
    value = (weight * (error.abs() + 2.0 * error.square())).mean()
    across = (weight[..., 1:] * error.diff(dim=-1).abs()).mean()
    down = (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    return value + 0.5 * (across + down)


def train(folder: Path, generation_config: loop.GenerationConfig = RECIPE) -> None:
    """Runs the stage; checkpoints go to ``folder``."""
    vae = new_vae().train()

    def loss_of(step: int, generator: torch.Generator) -> tuple[Tensor, float]:
        clips = shapes.sample_clips(BATCH, generator)
        real = shapes.render_clips(clips, FRAMES)
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_variance = frames_vae.encode(vae, real)
            mean, log_variance = mean.float(), log_variance.float()
            spread = mean.detach().std(dim=(0, 2, 3, 4), keepdim=True)
            share = NOISE * torch.rand(BATCH, 1, 1, 1, 1, generator=generator)
            noise = torch.randn(2, *mean.shape, generator=generator)
            latents = mean + torch.exp(0.5 * log_variance) * noise[0] + share * spread * noise[1]
            made = frames_vae.decode(vae, latents).float()
        covered = shapes.coverage(clips, FRAMES)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
        loss = reconstruction_loss(made, real, covered) + KL * kl
        return loss, float((made.detach() - real).square().mean())

    loop.train(vae, loss_of, generation_config, folder)
