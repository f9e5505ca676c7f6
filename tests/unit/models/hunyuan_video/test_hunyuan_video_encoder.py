"""HunyuanVideo's VAE as an encoder: diffusers' own tiles, one at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.models import ModelFolder
from longtake.models.hunyuan_video import HunyuanVideoFamily
from longtake.models.hunyuan_video.encoder import HunyuanVideoEncoder
from longtake.testing.tiny.base import CHANNELS
from longtake.testing.tiny.hunyuan_video import tiny_hunyuan_folder, tiny_hunyuan_vae

CPU = torch.device("cpu")


def pictures(frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (frames, 16, 24, 3), generator=generator).byte()


def encoded(vae: Any, frames: Tensor) -> Tensor:
    """Return what diffusers encodes at once."""
    pixels = 2 * (frames.permute(3, 0, 1, 2)[None] / 255) - 1
    latents: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
    scaling: float = vae.config.scaling_factor
    return latents * scaling


@pytest.mark.parametrize("latent_frames", [*range(1, 13), 19])
@torch.no_grad()
def test_a_stream_is_encoded_as_the_whole(latent_frames: int) -> None:
    frames = pictures(1 + 4 * (latent_frames - 1))
    found = HunyuanVideoEncoder(tiny_hunyuan_vae()).encode(frames)
    assert found.shape == (1, CHANNELS, latent_frames, 2, 3)
    assert torch.equal(found, encoded(tiny_hunyuan_vae(), frames))


@torch.no_grad()
def test_the_folders_encoder_is_read_alone(tmp_path: Any) -> None:
    folder: ModelFolder = tiny_hunyuan_folder(tmp_path)
    frames = pictures(5)
    found = HunyuanVideoFamily().encode_video(folder, frames, CPU)
    assert torch.equal(found, encoded(tiny_hunyuan_vae(), frames))
