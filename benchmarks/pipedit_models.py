"""The two models of PipeDiT's Table 6 as the simulator sees them: sizes, weights, operations."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Final

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch.utils.flop_counter import FlopCounterMode

from longtake.caches import NextBlockKV
from longtake.models import BackboneSpec, Compression
from longtake.models.flops import Flops
from longtake.plan.cost.profiles import profile
from longtake.plan.devices import Hardware
from longtake.plan.workload import Workload
from longtake.schedulers import FullSequence

CLIPS, VIDEO_FRAMES = 10, 97
HALF: Final = 2
"""Bytes of a number."""
GPUS: Final = {"A6000": "RTX A6000", "L40": "L40"}
OPEN_SORA_PLAN, HUNYUAN_VIDEO = "Open-Sora-Plan", "HunyuanVideo"
_TEXT: Final = 512
"""Tokens of Open-Sora-Plan's prompts, for cross-attention."""

SPECS: Final = {
    OPEN_SORA_PLAN: BackboneSpec(
        name=OPEN_SORA_PLAN,
        channels=8,
        patch=(1, 2, 2),
        heads=24,
        head_dim=96,
        layers=32,
        native_frames=24,
        compression=Compression(temporal=4, spatial=8),
    ),
    HUNYUAN_VIDEO: BackboneSpec(
        name=HUNYUAN_VIDEO,
        channels=16,
        patch=(1, 2, 2),
        heads=24,
        head_dim=128,
        layers=60,
        native_frames=33,
        compression=Compression(temporal=4, spatial=8),
        text_tokens=256,
        guidance="embedded",
    ),
}
WEIGHTS: Final = {
    # mT5-xxl's encoder, transformer, VAE; Llama 3 8B without its head, CLIP-L, and the same.
    OPEN_SORA_PLAN: 5.65e9 + 2.7e9 + 0.15e9,
    HUNYUAN_VIDEO: 7.5e9 + 0.12e9 + 12.82e9 + 0.25e9,
}


def hunyuan_video_decode(height: int, width: int, frames: int) -> float:
    """Return the operations of HunyuanVideo's VAE for a clip of a latent size: all its tiles."""
    # Latents; a tile of 5 frames begins every 3, one of 32 positions every 24.
    times = [min(5, frames - start) for start in range(0, frames - 1, 3)]
    rows, columns = (
        [min(32, side - start) for start in range(0, side, 24)] for side in (height, width)
    )
    return sum(_tile(time, row, column) for time in times for row in rows for column in columns)


@cache
@torch.no_grad()
def _tile(frames: int, height: int, width: int) -> float:
    with torch.device("meta"):
        vae = AutoencoderKLHunyuanVideo()
        vae.use_framewise_decoding = False
        with FlopCounterMode(display=False) as counter:
            vae.decode(torch.empty(1, 16, frames, height, width))
    return float(counter.get_total_flops())


def open_sora_plan_decode(height: int, width: int, frames: int) -> float:
    """Return the operations of Open-Sora-Plan's wavelet VAE: its convolutions, level by level."""

    def cubes(*channels: int) -> float:  # convolutions of 3 x 3 x 3, one after another
        return sum(54.0 * a * b for a, b in pairwise(channels))

    def squares(before: int, after: int) -> float:
        return 18.0 * before * after

    side_branch = cubes(*[128] * 5)
    latent = cubes(8, *[512] * 3, 640, 640) + side_branch + cubes(*[512] * 5)
    double = cubes(512, 512, 640, 640) + side_branch + cubes(512, 256, 256, 256, 256)
    last = squares(256, 256) + cubes(*[256] * 3, 128, 128, 128, 128) + squares(128, 24)
    # Wavelets do the last doubling of time, height and width.
    return height * width * frames * (latent + 8 * double + 32 * last)


def workload_of(model: str, gpu: str, size: tuple[int, int], steps: int) -> Workload:
    """Return what the paper has made, on its GPUs, as the simulator sees it."""
    spec, sheet = SPECS[model], profile(GPUS[gpu])
    height, width = (pixels // spec.compression.spatial for pixels in reversed(size))
    frames, dim = spec.compression.latent_frames(VIDEO_FRAMES), spec.model_dim
    ends = 2.0 * 4 * spec.channels * dim
    if model == HUNYUAN_VIDEO:
        layer, attention = 24.0 * dim * dim, 4.0 * dim
        decode = hunyuan_video_decode(height, width, frames)
    else:
        # Two attentions but for the text's keys and values, feed-forward of 4 times the width.
        layer, attention = 28.0 * dim * dim + 4.0 * _TEXT * dim, 4.0 * dim * (4 + 28 / 4) / 32
        decode = open_sora_plan_decode(height, width, frames)
    return Workload(
        spec=spec,
        scheduler=FullSequence(),
        latent_frames=frames,
        steps=steps,
        cache=NextBlockKV(),
        branches=1 if spec.guidance == "embedded" else 2,
        height=height,
        width=width,
        item_bytes=HALF,
        flops=Flops(
            embed=ends, layer=layer, attention=attention, head=ends, decode=decode / frames
        ),
        hardware=half_precision(sheet),
        requests=CLIPS,
    )


def half_precision(sheet: Hardware) -> Hardware:
    """Return a device whose convolutions run on tensor cores: 40 % of the peak, products 50 %."""
    return replace(sheet, convolution=0.8 * sheet.matmul)
