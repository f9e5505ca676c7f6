"""Groups of sparse layers: a kernel that attends to each group of tokens on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from longtake.models.base import Kernel
from longtake.models.layers.groups import TokenGroups


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The tokens of one group of a window.

    Args:
        queries: Which of the queries here are of the group.
        keys: Which of the keys here are, those of the feature cache included.
        counts: How many keys of the group each ring coordinate has.
    """

    queries: Tensor
    keys: Tensor
    counts: tuple[int, ...]


def split(
    groups: TokenGroups,
    queries: range,
    keys: Sequence[Sequence[range]],
    index: int = 0,
    device: torch.device | None = None,
) -> list[Group]:
    """Divide a window's tokens among the groups; groups without a key are left out.

    Args:
        groups: Of the layer.
        queries: Places of the queries here.
        keys: Places of the keys that each ring coordinate has, in the order in which it has them.
        index: The ring coordinate here.
        device: Where the operands of attention are.
    """
    members = [groups.of(_places(spans, device)) for spans in keys]
    asking = groups.of(_places([queries], device))
    found = [
        Group(
            queries=(asking == group).nonzero()[:, 0],
            keys=(members[index] == group).nonzero()[:, 0],
            counts=tuple(int((part == group).sum()) for part in members),
        )
        for group in range(groups.count)
    ]
    return [group for group in found if sum(group.counts)]


def in_groups(kernels: Sequence[Kernel], groups: Sequence[Group]) -> Kernel:
    """Return a kernel by which every query sees the keys of its own group.

    Groups are gathered and attended one after another: their sizes may differ, and no key has to
    be masked.

    Args:
        kernels: A kernel for each group.
        groups: All groups of the window.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        for kernel, group in zip(kernels, groups, strict=True):
            out[:, group.queries] = kernel(q[:, group.queries], k[:, group.keys], v[:, group.keys])
        return out

    return attend


def _places(spans: Sequence[range], device: torch.device | None) -> Tensor:
    return torch.cat([torch.arange(span.start, span.stop, device=device) for span in spans])
