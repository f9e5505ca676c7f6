"""FifoQueue: DualParal's queue of blocks at progressively different noise levels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import final

from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.schedulers.base import BlockScheduler
from longtake.task import FrameRange, Neighbor, Task


@final
class FifoQueue(BlockScheduler):
    """Denoise block after block through a first-in-first-out queue (DualParal, AAAI 2026).

    One block enters every ``stride`` iterations; each iteration runs every block in flight once,
    newest (noisiest) first, so block ``b`` runs step ``i - stride * b`` in iteration ``i``. The
    first block is ``block_frames + context_frames`` long, as in the paper, so that every window
    has the same size; the last one takes what is left.

    Args:
        block_frames: Latent frames of a block (the paper's Num_B).
        context_frames: Latent frames seen of the block on each side (half the paper's Num_C); at
            most ``block_frames``.
        stride: Iterations between two blocks' entries. 1 is the paper; a larger one has fewer
            blocks in flight (``steps / stride``), so the first block comes out sooner and less
            memory is held, but neighbors differ by ``stride`` noise levels.
    """

    def __init__(self, block_frames: int = 8, context_frames: int = 8, stride: int = 1) -> None:
        if block_frames < 1:
            raise ConfigurationError(
                f"block_frames is {block_frames}, but a block holds at least 1 latent frame."
            )
        if not 0 <= context_frames <= block_frames:
            raise ConfigurationError(
                f"context_frames is {context_frames}, but context comes from the adjacent block "
                f"alone: choose 0 to {block_frames} (block_frames)."
            )
        if stride < 1:
            raise ConfigurationError(f"stride is {stride}; the smallest is 1 (the paper's queue).")
        self.block_frames = block_frames
        self.context_frames = context_frames
        self.stride = stride

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        for block in count():
            if not self._exists(block, latent_frames):
                return
            yield self._frames(block, latent_frames)

    @override
    def tasks(self, latent_frames: int | None, steps: int) -> Iterator[Task]:
        indices = count()
        oldest = newest = 0
        for iteration in count():
            if iteration == self.stride * (newest + 1) and self._exists(newest + 1, latent_frames):
                newest += 1
            if iteration - self.stride * oldest >= steps:
                oldest += 1
            if oldest > newest and not self._exists(newest + 1, latent_frames):
                return
            for block in range(newest, oldest - 1, -1):
                yield self._task(next(indices), block, iteration, latent_frames, steps)

    @override
    def blocks_in_flight(self, latent_frames: int | None, steps: int) -> int:
        most = -(-steps // self.stride)
        if latent_frames is None:
            return most
        rest = max(0, latent_frames - self.block_frames - self.context_frames)
        return min(most, 1 + -(-rest // self.block_frames))

    def _exists(self, block: int, latent_frames: int | None) -> bool:
        return latent_frames is None or self._start(block) < latent_frames

    def _start(self, block: int) -> int:
        return block * self.block_frames + (self.context_frames if block else 0)

    def _frames(self, block: int, latent_frames: int | None) -> FrameRange:
        stop = self._start(block + 1)
        return FrameRange(
            self._start(block), stop if latent_frames is None else min(stop, latent_frames)
        )

    def _task(
        self, index: int, block: int, iteration: int, latent_frames: int | None, steps: int
    ) -> Task:
        step = iteration - self.stride * block
        frames = self._frames(block, latent_frames)
        before = after = None
        if block:
            before = Neighbor(
                block=block - 1,
                frames=self._frames(block - 1, latent_frames).last(self.context_frames),
                sees=frames.first(self.context_frames),
                # It runs after this task: its latents stand as the last iteration left them.
                steps_done=min(steps, step + self.stride),
                runs_step=step + self.stride if step + self.stride < steps else None,
            )
        if self._exists(block + 1, latent_frames):
            after = Neighbor(
                block=block + 1,
                frames=self._frames(block + 1, latent_frames).first(self.context_frames),
                sees=frames.last(self.context_frames),
                # It has just run, in this same iteration.
                steps_done=max(0, step - self.stride + 1),
                runs_step=step - self.stride if step >= self.stride else None,
            )
        return Task(
            index=index,
            iteration=iteration,
            block=block,
            step=step,
            frames=frames,
            before=before,
            after=after,
            last_step=step == steps - 1,
        )
