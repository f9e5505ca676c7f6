"""FLOPs of a model's parts, and what they move."""

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
        scores: Scores of one layer's self-attention, per query, key and branch: each head's.
        moved: Bytes that one layer reads and writes besides its products, per query token and
            branch.
        calls: Operations of one layer, whatever its size.
        unfolded: Bytes of the matrices that a CPU unfolds the VAE's small convolutions to, per
            latent frame.
        thin: Of ``decode``, operations of convolutions over the channels that each has least of.
        decode_moved: Bytes that the VAE reads and writes besides convolutions, per latent frame.
    """

    embed: float
    layer: float
    attention: float
    head: float
    decode: float
    scores: float = 0.0
    moved: float = 0.0
    calls: float = 0.0
    unfolded: float = 0.0
    decode_moved: float = 0.0
    thin: float = 0.0
