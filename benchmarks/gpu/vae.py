"""Measures Wan's VAE: fp32, TF32, bf16 and channels_last_3d; seconds and PSNR per latent frame.

python benchmarks/gpu/vae.py
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.gpu.verdict import begin, end, show

from longtake.models.wan.decoder import WanDecoder

BAR = 45.0
"""PSNR in dB below which a variant changes the picture."""


def decoded(decoder: WanDecoder, latents: Tensor) -> Tensor:
    """Return the video frames of some latent frames."""
    return torch.cat(list(decoder.decode(decoder.start(), latents)), dim=0).float()


@torch.no_grad()
def main() -> None:
    """Measure."""
    run = begin(__doc__)
    changes = {"base_dim": 8, "z_dim": 4} if run.tiny else {}
    if run.tiny:
        changes |= {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}  # type: ignore[dict-item]
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**changes).eval().to(run.device)
    side = (4, 6) if run.tiny else (60, 104)
    latents = torch.randn(1, vae.config.z_dim, 3, *side, device=run.device)
    cudnn, rows = torch.backends.cudnn, []
    cudnn.allow_tf32 = False
    exact = decoded(WanDecoder(vae), latents)
    good: dict[str, float] = {}
    for name in ("fp32", "TF32", "bf16", "bf16, channels last"):
        cudnn.allow_tf32 = name == "TF32"
        if name.startswith("bf16"):
            vae = vae.to(torch.bfloat16)
        if name.endswith("last"):
            for module in vae.modules():
                if isinstance(module, nn.Conv3d):
                    module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        decoder = WanDecoder(vae)
        seconds = run.seconds(lambda: decoded(decoder, latents), 3) / latents.shape[2]  # noqa: B023
        error = (decoded(decoder, latents) - exact).square().mean().item()
        psnr = math.inf if error == 0 else 10 * math.log10(4 / error)  # from -1 to 1
        peak = run.peak(lambda: decoded(decoder, latents))  # noqa: B023
        rows.append([name, f"{seconds:.3f}", f"{psnr:.1f}", f"{peak / 1e9:.1f}"])
        if psnr >= BAR:
            good[name] = seconds
    show(["variant", "s per latent frame", "PSNR, dB", "peak, GB"], rows)
    best = min(good, key=lambda name: good[name])
    end(
        run,
        bool(good),
        f"{best} decodes a latent frame in {good[best]:.3f} s at {BAR:.0f} dB or more",
    )


if __name__ == "__main__":
    main()
