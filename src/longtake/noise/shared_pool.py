"""SharedPool, DualParal's coordinated noise: all blocks take theirs from one small pool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.noise.base import NoiseInit, NoiseSource
from longtake.task import FrameRange


@final
class SharedPool(NoiseInit):
    """Take every block's noise from one pool of latents, reshuffled for each block.

    DualParal's coordinated noise initialization. The pool is as long as the first block (which
    takes it whole). For each later block of ``n`` frames all pool latents but the last
    ``pool - n`` are shuffled, the kept ones move to the front and the block takes the shuffled
    rest: a block never meets its predecessor's last latents again, yet all blocks share the same
    noise, which keeps a long video consistent. A shorter last block takes the first of them
    (where it is the second block of all, ``n`` is its own length).
    """

    @override
    def blocks(self, source: NoiseSource, cut: Iterable[FrameRange]) -> Iterator[Tensor]:
        order = pool = torch.empty(0)
        usual = 0
        for block, frames in enumerate(cut):
            if block == 0:
                pool = source.normal(len(frames), "pool", 0)
                order = torch.arange(len(frames))
                yield pool
                continue
            usual = usual or min(len(frames), len(order))
            if len(frames) > usual:
                raise ConfigurationError(
                    f"the noise SharedPool serves blocks of up to {usual} latent frames after the "
                    f"first, but block {block} has {len(frames)}; use Independent with this "
                    f"scheduler."
                )
            shuffle = torch.randperm(usual, generator=source.generator("shuffle", block))
            order = torch.cat([order[usual:], order[:usual][shuffle]])
            yield pool[:, :, order[-usual:][: len(frames)]]
