"""Patches: tokens back to latents."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from longtake.models.base import Grid
from longtake.models.spec import BackboneSpec


def unpatchify(tokens_BSP: Tensor, grid: Grid, spec: BackboneSpec) -> Tensor:
    """Put each token's patch back in its place.

    Args:
        tokens_BSP: ``(B, S, patch frames * patch height * patch width * C)``, channels innermost.
        grid: The frames that the tokens tile.
        spec: Gives the patch.

    Returns:
        ``(B, C, F, H, W)``.
    """
    frames, height, width = spec.patch
    return rearrange(
        tokens_BSP,
        "b (f h w) (pf ph pw c) -> b c (f pf) (h ph) (w pw)",
        f=len(grid.frames) // frames,
        h=grid.height // height,
        w=grid.width // width,
        pf=frames,
        ph=height,
        pw=width,
    )


def unpatchify_channels_first(tokens_BSP: Tensor, grid: Grid, spec: BackboneSpec) -> Tensor:
    """Put each token's patch back in its place, where a patch has its channels outermost.

    Args:
        tokens_BSP: ``(B, S, C * patch frames * patch height * patch width)``, channels outermost.
        grid: The frames that the tokens tile.
        spec: Gives the channels and the patch.

    Returns:
        ``(B, C, F, H, W)``.
    """
    channels_last = rearrange(tokens_BSP, "b s (c p) -> b s (p c)", c=spec.channels)
    return unpatchify(channels_last, grid, spec)
