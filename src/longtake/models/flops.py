"""FLOPs of a model's parts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Floating-point operations of a model's parts, counted on the model itself.

    Args:
        embed: Per token of a window and batch of branches.
        layer: Of one layer, per query token and branch, without what grows with the keys.
        attention: Of one layer's self-attention, per query, key and branch.
        head: Per predicted token and branch.
        decode: Of the VAE, per latent frame.
    """

    embed: float
    layer: float
    attention: float
    head: float
    decode: float
