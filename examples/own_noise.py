"""A noise of one's own: every frame's starting noise is partly that of the frame before.

In YAML, with the folder of this file in ``PYTHONPATH``::

    model:
      noise: {class_path: own_noise.Drifting, init_args: {likeness: 0.5}}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.api import ConfigurationError, FrameRange, NoiseInit, NoiseSource


@final
class Drifting(NoiseInit):
    """Noise that drifts from frame to frame.

    Args:
        likeness: Correlation of adjacent latent frames, from 0 to less than 1.
    """

    def __init__(self, likeness: float = 0.5) -> None:
        if not 0 <= likeness < 1:
            raise ConfigurationError(
                f"a likeness of {likeness} leaves no new noise; give 0 to less than 1, such as 0.5."
            )
        self.likeness = likeness

    @override
    def blocks(self, source: NoiseSource, cut: Iterable[FrameRange]) -> Iterator[Tensor]:
        kept, new = self.likeness, (1 - self.likeness**2) ** 0.5  # squares add up: deviation 1
        last: Tensor | None = None
        for block, frames in enumerate(cut):
            drifting: list[Tensor] = []
            for fresh in source.normal(len(frames), "block", block).unbind(2):
                last = fresh if last is None else kept * last + new * fresh
                drifting.append(last)
            yield torch.stack(drifting, dim=2)
