"""Sparse self-attention: tokens in groups, each of which attends to itself only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class TokenGroups:
    """Which tokens of a window attend to one another in a sparse layer.

    A token's place is its number among all keys of the window, in the order of time, those that a
    feature cache adds included: a window is grouped as the model groups a clip that begins where
    the window's keys begin. Keys are kept before they are grouped, so they fit any window.

    Args:
        count: Number of groups.
        run: Consecutive tokens of the same group: the token at place ``p`` is of group
            ``p // run % count``.
    """

    count: int
    run: int = 1

    def of(self, places: Tensor) -> Tensor:
        """Return the group of the token at each of ``places``."""
        return places // self.run % self.count
