"""Wan 2.1 as the simulator sees it, for other benchmarks: sizes, weights, operations."""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from longtake.caches import FeatureCache
from longtake.models import BackboneSpec, Compression
from longtake.models.flops import Flops
from longtake.models.wan import WanDecoder
from longtake.plan.devices import Hardware
from longtake.plan.workload import Workload
from longtake.schedulers import BlockScheduler

SIZES: Final = {"1.3B": (12, 30, 8960), "14B": (40, 40, 13824)}
"""Heads, layers and feed-forward width of Wan 2.1."""
HEIGHT, WIDTH = 60, 104
"""Latent sides of 832x480."""
_TEXT: Final = 512
"""Tokens of a prompt, for cross-attention."""


def spec_of(name: str) -> BackboneSpec:
    """Return Wan 2.1's spec."""
    heads, layers, _ = SIZES[name]
    return BackboneSpec(
        name=f"Wan 2.1 {name}",
        channels=16,
        patch=(1, 2, 2),
        heads=heads,
        head_dim=128,
        layers=layers,
        native_frames=21,
        compression=Compression(temporal=4, spatial=8),
    )


def layer_numbers(name: str) -> int:
    """Return the weights of one layer: two attentions and the feed-forward part."""
    dim = spec_of(name).model_dim
    return 8 * dim * dim + 2 * dim * SIZES[name][2]


@cache
@torch.no_grad()
def decode_operations() -> float:
    """Count the operations of Wan's VAE for a latent frame in the midst of a 480p video."""
    with torch.device("meta"):
        decoder, side = WanDecoder(AutoencoderKLWan()), 8
        state = decoder.start()
        for _ in range(3):
            list(decoder.decode(state, torch.empty(1, 16, 1, side, side)))
        with FlopCounterMode(display=False) as counter:
            list(decoder.decode(state, torch.empty(1, 16, 1, side, side)))
    return float(counter.get_total_flops()) / side**2 * HEIGHT * WIDTH


def workload_of(
    name: str,
    hardware: Hardware,
    latent_frames: int,
    steps: int,
    scheduler: BlockScheduler,
    cache: FeatureCache,
    *,
    branches: int,
) -> Workload:
    """Return a 480p workload of Wan 2.1 in bfloat16.

    Args:
        name: Of the size.
        hardware: What the devices do.
        latent_frames: Length of the video.
        steps: Denoising steps.
        scheduler: Cuts and orders.
        cache: How tasks see the rest.
        branches: 2 with guidance.
    """
    spec = spec_of(name)
    dim = spec.model_dim
    # Projections of self-attention and the queries' and output of cross-attention, feed-forward,
    # and cross-attention itself.
    linear = 2 * (6 * dim * dim + 2 * dim * SIZES[name][2]) + 4 * _TEXT * dim
    ends = 2.0 * 4 * spec.channels * dim
    return Workload(
        spec=spec,
        scheduler=scheduler,
        latent_frames=latent_frames,
        steps=steps,
        cache=cache,
        branches=branches,
        height=HEIGHT,
        width=WIDTH,
        item_bytes=2,
        flops=Flops(
            embed=ends,
            layer=linear,
            attention=4 * dim,
            head=ends,
            decode=decode_operations(),
        ),
        hardware=hardware,
        layer_bytes=2 * layer_numbers(name),
    )
