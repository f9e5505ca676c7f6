"""LTX-Video's encoder: the mean of what ``vae.encode`` makes of a whole video, piece by piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo
from torch import Tensor

from longtake.models.ltx import LTXFamily
from longtake.models.ltx.encoder import LTXEncoder
from longtake.testing.tiny.base import CHANNELS
from longtake.testing.tiny.ltx import randomize_ltx_vae, tiny_ltx_folder, tiny_ltx_vae

CPU = torch.device("cpu")
GATHERED: dict[str, Any] = {
    "block_out_channels": (4, 8, 8, 16, 16),
    "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
    "layers_per_block": (1, 1, 1, 1, 1),
    "spatio_temporal_scaling": (True, True, True, True),
    "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    "decoder_block_out_channels": (8, 16, 32),
    "decoder_layers_per_block": (1, 1, 1, 1),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "decoder_inject_noise": (False, False, False, False),
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
    "latent_channels": CHANNELS,
    "patch_size": 4,
    "temporal_compression_ratio": 8,
    "spatial_compression_ratio": 32,
}
"""An encoder whose layers gather positions into channels, as since LTX-Video 0.9.5."""


def whole(vae: Any, frames: Tensor) -> Tensor:
    """Return the normalized mean of diffusers' encoder, of all frames at once."""
    mean, std = (part.view(1, -1, 1, 1, 1) for part in (vae.latents_mean, vae.latents_std))
    pixels = 2 * (frames.permute(3, 0, 1, 2)[None].to(vae.latents_mean) / 255) - 1
    mode = vae.encode(pixels).latent_dist.mode()
    found: Tensor = (mode - mean) * vae.config.scaling_factor / std
    return found


@pytest.mark.usefixtures("norms_keep_float64")
@pytest.mark.parametrize("latent_frames", [1, 2, 4])
@pytest.mark.parametrize("gathered", [False, True], ids=["0.9.0", "0.9.5"])
@torch.no_grad()
def test_a_stream_is_encoded_as_the_whole(latent_frames: int, gathered: bool) -> None:
    """In float64: convolutions of few frames are rounded unlike those of many."""
    vae = randomize_ltx_vae(AutoencoderKLLTXVideo(**GATHERED), 0) if gathered else tiny_ltx_vae()
    vae = vae.double()
    size = (1 + 8 * (latent_frames - 1), 64, 96, 3)
    frames = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(1)).byte()
    found, expected = LTXEncoder(vae).encode(frames), whole(vae, frames)
    assert found.shape == (1, CHANNELS, latent_frames, 2, 3)
    assert expected.std() > 1e-3
    assert (found - expected).abs().max() <= 1e-10 * max(1.0, float(expected.abs().max()))


@torch.no_grad()
def test_a_folders_encoder_is_read_alone(tmp_path: Path) -> None:
    folder = tiny_ltx_folder(tmp_path)
    frames = torch.randint(0, 256, (9, 64, 96, 3), dtype=torch.uint8)
    found = LTXFamily().encode_video(folder, frames, CPU)
    expected = whole(AutoencoderKLLTXVideo.from_pretrained(folder.path / "vae"), frames)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
