"""Differences of tensors in words: how far two are apart, where, and what kind of mistake it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SAME: float = 1e-4
"""Largest difference, relative to the largest number, of what counts as equal in a description."""


def kind_of_difference(found: Tensor, expected: Tensor, dims: Sequence[str]) -> str:
    """Say in what way a tensor is not what was expected.

    Args:
        found: Of the same shape as ``expected``.
        expected: What it should be.
        dims: What each dim is called, for people: ``("row", "channel", "frame", ...)``.
    """
    found, expected = found.double(), expected.double()
    if not found.isfinite().all():
        return "it has numbers that are not finite"
    scale = expected.abs().max().clamp(min=1e-30)
    apart = (found - expected).abs() / scale
    for kind in (
        _permuted(found, expected, dims),
        _confined(apart, dims),
        _growing(apart, dims),
        _scaled(found, expected),
    ):
        if kind:
            return kind
    return "everywhere, in no simple way"


def _permuted(found: Tensor, expected: Tensor, dims: Sequence[str]) -> str:
    if not _alike(found.flatten().sort()[0], expected.flatten().sort()[0]):
        return ""
    for dim, name in enumerate(dims):
        slices = [one.flatten() for one in found.unbind(dim)]
        wanted = [one.flatten() for one in expected.unbind(dim)]
        order = [next((i for i, w in enumerate(wanted) if _alike(s, w)), -1) for s in slices]
        if sorted(order) == list(range(len(order))) and order != sorted(order):
            return f"the same numbers in another order: {name}s {order}"
    return "the same numbers in another order"


def _confined(apart: Tensor, dims: Sequence[str]) -> str:
    """Whether only some indices of one dim differ: of the dim of which the fewest do."""
    best = (1.0, "")
    for dim, name in enumerate(dims):
        worst = apart.amax([d for d in range(apart.dim()) if d != dim])
        wrong = (worst > _SAME).nonzero().flatten().tolist()
        share = len(wrong) / len(worst)
        if wrong and share < best[0]:
            shown = ", ".join(map(str, wrong[:8])) + (", ..." if len(wrong) > 8 else "")
            best = (share, f"only in {name} {shown} of {len(worst)}")
    return best[1]


def _growing(apart: Tensor, dims: Sequence[str]) -> str:
    if "frame" not in dims:
        return ""
    dim = dims.index("frame")
    worst = apart.amax([d for d in range(apart.dim()) if d != dim])
    steps = worst.diff()
    if len(worst) > 1 and (steps > 0).all() and worst[-1] > 1.5 * worst[0]:
        return f"it grows with the frame: {', '.join(f'{one:.1e}' for one in worst.tolist())}"
    return ""


def _scaled(found: Tensor, expected: Tensor) -> str:
    factor = (found * expected).sum() / (expected * expected).sum().clamp(min=1e-30)
    if _alike(found, factor * expected):
        return f"everything is {factor:.3g} times as large"
    shift = (found - expected).mean()
    if _alike(found, expected + shift):
        return f"everything is {shift:.3g} more"
    return ""


def _alike(found: Tensor, expected: Tensor) -> bool:
    scale = expected.abs().max().clamp(min=1e-30)
    return bool(torch.all((found - expected).abs() <= _SAME * scale))
