"""Head share, how many a rank gives away: from the seconds that attending took, here and there."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple, Self, final

_WORTH: Final = 0.95
"""Of the seconds that attending alone takes, which attending together must undercut."""
_AGAIN: Final = 64
"""Micro-batchs after which a size that was not worth it is tried again: loads change."""


class Rates(NamedTuple):
    """Seconds that a layer's attention took.

    Args:
        heads: That were attended here.
        seconds: Until they were.
        given: Heads that were given away.
        waited: Seconds until those were back.
    """

    heads: int
    seconds: float
    given: int
    waited: float

    @classmethod
    def median(cls, rates: Sequence[Self]) -> Self:
        """Return the median of a micro-batch's layers: one that is held up counts for nothing."""
        first = rates[0]
        seconds = median(one.seconds for one in rates)
        return cls(first.heads, seconds, first.given, median(one.waited for one in rates))


@final
class HeadShare:
    """Chooses for each size of micro-batch: first alone, then the paper's share, then the best.

    With ``a`` seconds per head here and ``w`` per head that is given away and comes back, ``n`` of
    ``H`` heads given away take ``max((H - n) a, n w)`` seconds.

    Args:
        heads: Heads that each rank attends, ``H``.
        ranks: Ranks of the mesh.
        helpers: Decode ranks. The paper's share is that of all heads which makes all ranks
            attend as many: ``H helpers / (ranks + helpers)``.
    """

    def __init__(self, heads: int, ranks: int, helpers: int) -> None:
        self._heads = heads
        self._even = min(max(1, round(heads * helpers / (ranks + helpers))), heads - 1)
        self._alone: dict[tuple[int, ...], float] = {}
        self._given: dict[tuple[int, ...], float] = {}
        self._declined: dict[tuple[int, ...], int] = {}

    def heads(self, size: tuple[int, ...]) -> int:
        """Return how many heads to give away in a micro-batch of a size."""
        if size not in self._alone or self._heads < 2:
            return 0
        if size not in self._given:
            return self._even
        best = self.best(self._alone[size], self._given[size])
        if best:
            return best
        self._declined[size] = self._declined.get(size, 0) + 1
        return self._even if self._declined[size] % _AGAIN == 0 else 0

    def best(self, alone: float, given: float) -> int:
        """Return the best number of heads to give away, 0 where none is worth it.

        Args:
            alone: Seconds per head that is attended here.
            given: Seconds per head that is given away.
        """
        seconds = {
            count: max((self._heads - count) * alone, count * given)
            for count in range(1, self._heads)
        }
        count = min(seconds, key=lambda one: seconds[one])
        return count if seconds[count] < _WORTH * self._heads * alone else 0

    def measured(self, size: tuple[int, ...], rates: Rates) -> None:
        """Take what a micro-batch of a size took."""
        if rates.given:
            self._given[size] = rates.waited / rates.given
        else:
            self._alone[size] = rates.seconds / rates.heads
