"""Independent noise: every block on its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

from torch import Tensor
from typing_extensions import override

from longtake.noise.base import NoiseInit, NoiseSource
from longtake.task import FrameRange


@final
class Independent(NoiseInit):
    """Draw every block's noise independently of all others."""

    @override
    def blocks(self, source: NoiseSource, cut: Iterable[FrameRange]) -> Iterator[Tensor]:
        for block, frames in enumerate(cut):
            yield source.normal(len(frames), "block", block)
