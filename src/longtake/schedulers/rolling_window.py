"""RollingWindow: blocks of all noise levels in one forward, clean frames kept (Rolling Forcing)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import final

from typing_extensions import override

from longtake.schedulers.autoregressive import clean_task, seen_past
from longtake.schedulers.base import BlockScheduler
from longtake.schedulers.cards import ROLLING_FORCING
from longtake.schedulers.cuts import EqualBlocks
from longtake.task import FrameRange, Task, Video


@final
class RollingWindow(BlockScheduler):
    """Denoise as many blocks as there are steps in one forward, each one step behind the older one.

    Rolling Forcing (arXiv 2509.25161). Every forward takes all blocks of the window one step
    further, the oldest one to its end; a clean pass over that one leaves the keys and values that
    later windows see. One block comes out per two forwards, whatever the number of steps. Older
    blocks see younger, noisier ones, so the model must be trained for it, and must take a timestep
    per latent frame.

    Use it with ``RollingKV(frames=21, sinks=3, buffer=24, moved_sinks=True)``, independent noise
    and a stochastic few-step sampler.

    Args:
        block_frames: Latent frames of a block: what the model was trained with, mostly 3.
    """

    cards = (ROLLING_FORCING,)

    def __init__(self, block_frames: int = 3) -> None:
        self._cut = EqualBlocks(block_frames)
        self.block_frames = block_frames

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        yield from self._cut.all(latent_frames)

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        numbers = count()
        for window in count():
            oldest = max(0, window - video.steps + 1)
            if not self._cut.exists(oldest, video.latent_frames):
                return
            yield self._joint(next(numbers), window, oldest, video)
            more = self._cut.exists(oldest + 1, video.latent_frames)
            if window - oldest == video.steps - 1 and more:
                yield clean_task(next(numbers), window, self._cut, oldest, video)

    @override
    def blocks_in_flight(self, video: Video) -> int:
        if video.latent_frames is None:
            return video.steps
        return min(video.steps, -(-video.latent_frames // self.block_frames))

    def _joint(self, index: int, window: int, oldest: int, video: Video) -> Task:
        blocks = [
            block
            for block in range(oldest, window + 1)
            if self._cut.exists(block, video.latent_frames)
        ]
        runs = tuple(self._cut.run(block, window - block, video) for block in blocks)
        frames = self._cut.frames(oldest, video.latent_frames)
        done = runs[0].last_step
        more = self._cut.exists(oldest + 1, video.latent_frames)
        past = FrameRange(0, frames.stop if done else frames.start)
        return Task(
            index=index,
            iteration=window,
            block=oldest,
            step=runs[0].step,
            steps=video.steps,
            runs=runs,
            prompt=frames,
            sees=seen_past(frames.start, video),
            enters=(self._cut.enter(window, video),) if window in blocks else (),
            later=(past,) if len(past) and (more or not done) else (),
            left_later=(frames,) if done and more else (),
        )
