"""Conditioning kinds: where frames of a video can be given, and how a model honours them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal, TypeAlias

ConditioningKind: TypeAlias = Literal["start", "end", "keyframes", "continue"]
"""A first picture, a last one, pictures at given moments, the end of a video to go on from."""
Honoured: TypeAlias = Literal["native", "replacement", "refused"]
"""``native``: the model gets the frames in the form that it was trained with: in input channels of
their own, or clean at timestep 0 where each frame has a timestep. ``replacement``: their latents
take the place of those that are denoised, at every step, which needs no training. ``refused``: the
family has no encoder, or the model knows given frames as a video's first ones only."""
KINDS: Final[tuple[ConditioningKind, ...]] = ("start", "end", "keyframes", "continue")


def honoured(
    kind: ConditioningKind,
    *,
    encodes: bool,
    native: Collection[ConditioningKind],
    always: bool = False,
    first_only: bool = False,
) -> Honoured:
    """Return how a model honours frames of a kind.

    Args:
        kind: Which.
        encodes: Whether the family can encode frames.
        native: Kinds that the model was trained with.
        always: Whether the model cannot do without a start, which is then one that it was trained
            with.
        first_only: Whether the model knows given frames as a video's first ones only.
    """
    if not encodes or (first_only and kind in ("end", "keyframes")):
        return "refused"
    return "native" if kind in native or (always and kind == "start") else "replacement"
