"""Block queue: the latents and sampler states of the blocks in flight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from longtake.caches import Window
from longtake.models import BlockSampler
from longtake.strategies.runtime.denoising import Denoising
from longtake.task import FrameRange, Task


@dataclass(slots=True)
class _Block:
    frames: FrameRange
    latents: Tensor
    sampler: BlockSampler | None


@final
class BlockQueue:
    """Holds what a checkpoint of the queue would hold, and nothing that grows with the video.

    A block is in it from its first task on; when it finishes, only the frames that the next
    block still sees stay, until that one finishes too.

    Args:
        work: The request.
    """

    def __init__(self, work: Denoising) -> None:
        self._work = work

        self._blocks: dict[int, _Block] = {}

    def latents(self, task: Task, window: Window) -> Tensor:
        """Return the latents ``(1, C, F, H, W)`` of a task's window, as they stand now."""
        if task.step == 0:
            noise = next(self._work.noise).to(self._work.device)
            latents, sampler = self._work.begin(task.frames, noise)
            self._blocks[task.block] = _Block(task.frames, latents, sampler)
        parts = []
        for index in (task.block - 1, task.block, task.block + 1):
            block = self._blocks.get(index)
            if block is None:
                continue
            start = max(block.frames.start, window.frames.start)
            stop = min(block.frames.stop, window.frames.stop)
            if start < stop:
                parts.append(block.latents[:, :, FrameRange(start, stop).within(block.frames)])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def advance(self, task: Task, prediction: Tensor) -> Tensor | None:
        """Take the task's sampler step; return the block's latents when it was the last one.

        Args:
            task: The task that has run.
            prediction: Of the block's own frames, after guidance, ``(1, C, F, H, W)``.
        """
        block = self._blocks[task.block]
        assert block.sampler is not None
        # Never in place: a multi-step sampler keeps the tensor that it was given.
        block.latents = block.sampler.step(prediction, block.latents, self._work.noise_of(task))
        if not task.last_step:
            return None
        self._blocks.pop(task.block - 1, None)
        if task.after is None:
            del self._blocks[task.block]
        else:
            seen = task.after.sees
            tail = block.latents[:, :, seen.within(block.frames)].clone()
            self._blocks[task.block] = _Block(seen, tail, None)
        return block.latents
