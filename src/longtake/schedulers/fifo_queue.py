"""FifoQueue: DualParal's queue of blocks at progressively different noise levels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import final

from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.schedulers.base import BlockScheduler
from longtake.schedulers.cards import ANCHORED, DUAL_PARAL, SAME_STEP
from longtake.schedulers.cuts import EqualBlocks
from longtake.task import FrameRange, Leave, Seen, Task, Video


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
            blocks in flight (``steps / stride``), so the first block comes out sooner and fewer
            latents are held, but neighbors differ by ``stride`` noise levels.
    """

    cards = (DUAL_PARAL, SAME_STEP, ANCHORED)

    def __init__(self, block_frames: int = 8, context_frames: int = 8, stride: int = 1) -> None:
        self._cut = EqualBlocks(block_frames, context_frames)
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
        yield from self._cut.all(latent_frames)

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        indices = count()
        oldest = newest = 0
        for iteration in count():
            if iteration == self.stride * (newest + 1) and self._cut.exists(
                newest + 1, video.latent_frames
            ):
                newest += 1
            if iteration - self.stride * oldest >= video.steps:
                oldest += 1
            if oldest > newest and not self._cut.exists(newest + 1, video.latent_frames):
                return
            for block in range(newest, oldest - 1, -1):
                yield self._task(next(indices), block, iteration, video)

    @override
    def blocks_in_flight(self, video: Video) -> int:
        most = -(-video.steps // self.stride)
        if video.latent_frames is None:
            return most
        rest = max(0, video.latent_frames - self.block_frames - self.context_frames)
        return min(most, 1 + -(-rest // self.block_frames))

    def _task(self, index: int, block: int, iteration: int, video: Video) -> Task:
        step, steps = iteration - self.stride * block, video.steps
        frames = self._cut.frames(block, video.latent_frames)
        sees, leaves = [], []
        if block:
            # It runs after this task: its latents stand as the last iteration left them.
            version = min(steps, step + self.stride)
            before = self._cut.frames(block - 1, video.latent_frames).last(self.context_frames)
            sees.append(Seen(frames=before, version=version))
            if version < steps:
                leaves.append(Leave(frames=frames.first(self.context_frames), reader=block - 1))
        if self._cut.exists(block + 1, video.latent_frames):
            leaves.append(Leave(frames=frames.last(self.context_frames), reader=block + 1))
            if step >= self.stride:  # it has just run, in this same iteration
                after = self._cut.frames(block + 1, video.latent_frames).first(self.context_frames)
                sees.append(Seen(frames=after, version=step - self.stride + 1))
        return Task(
            index=index,
            iteration=iteration,
            block=block,
            step=step,
            steps=steps,
            runs=(self._cut.run(block, step, video),),
            prompt=frames,
            leaves=tuple(leave for leave in leaves if len(leave.frames)),
            sees=tuple(seen for seen in sees if len(seen.frames)),
            enters=() if step else (self._cut.enter(block, video),),
            later=self._later(block, iteration, video),
        )

    def _later(self, block: int, iteration: int, video: Video) -> tuple[FrameRange, ...]:
        """Return the finished frames that are still seen after a task: the last block's tail."""
        oldest = max(0, -(-(iteration - video.steps + 1) // self.stride))
        if iteration - self.stride * block == video.steps - 1:
            oldest = block + 1
        if not oldest or not self._cut.exists(oldest, video.latent_frames):
            return ()
        tail = self._cut.frames(oldest - 1, video.latent_frames).last(self.context_frames)
        return (tail,) if len(tail) else ()
