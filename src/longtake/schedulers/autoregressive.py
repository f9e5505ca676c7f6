"""Autoregressive: block after block of a causal model (CausVid, Self-Forcing, LongLive)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import final

from typing_extensions import override

from longtake.schedulers.base import BlockScheduler
from longtake.schedulers.cards import LONG_LIVE, SELF_FORCING
from longtake.schedulers.cuts import EqualBlocks
from longtake.task import FrameRange, Leave, Seen, Task, Video


@final
class Autoregressive(BlockScheduler):
    """Denoise a block through all its steps, then the next one.

    For causal few-step models: CausVid (arXiv 2412.07772), Self-Forcing (arXiv 2506.08009),
    LongLive (arXiv 2509.22622). When a block is finished, a clean pass over it leaves the keys and
    values that later blocks see; the last block needs none. Where the prompt changes, the frames
    that the cache holds are passed anew with the new prompt before the next block begins.

    Use it with ``RollingKV``, independent noise and a stochastic few-step sampler. A block costs
    one forward more than it has steps.

    Args:
        block_frames: Latent frames of a block: what the model was trained with, mostly 3.
        recache: Whether to make kept keys and values anew where the prompt changes (LongLive).
    """

    cards = (SELF_FORCING, LONG_LIVE)

    def __init__(self, block_frames: int = 3, recache: bool = True) -> None:
        self._cut = EqualBlocks(block_frames)
        self.block_frames = block_frames
        self.recache = recache

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        yield from self._cut.all(latent_frames)

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        numbers = count()
        for block, frames in enumerate(self._cut.all(video.latent_frames)):
            if block and self.recache and self._cut.changes_before(block, video):
                index = next(numbers)
                yield recache_task(
                    index, index, self._cut, block, video, passed=block, finished=block
                )
            for step in range(video.steps):
                yield self._denoise(next(numbers), block, frames, step, video)
            if self._cut.exists(block + 1, video.latent_frames):
                yield self._clean(next(numbers), block, video)

    @override
    def blocks_in_flight(self, video: Video) -> int:
        return 1

    def _denoise(self, index: int, block: int, frames: FrameRange, step: int, video: Video) -> Task:
        run, past = self._cut.run(block, step, video), FrameRange(0, frames.start)
        left_later = FrameRange(0, 0)
        if run.last_step:
            past = FrameRange(0, frames.stop)
            left_later = frames  # by its clean pass
        if self._recaches_after(block, video):
            left_later = past
        more = self._cut.exists(block + 1, video.latent_frames) or not run.last_step
        return Task(
            index=index,
            iteration=index,
            block=block,
            step=step,
            steps=video.steps,
            runs=(run,),
            prompt=frames,
            sees=seen_past(frames.start, video),
            enters=() if step else (self._cut.enter(block, video),),
            later=(past,) if more and len(past) else (),
            left_later=(left_later,) if more and len(left_later) else (),
        )

    def _clean(self, index: int, block: int, video: Video) -> Task:
        frames = self._cut.frames(block, video.latent_frames)
        past = FrameRange(0, frames.stop)
        return Task(
            index=index,
            iteration=index,
            block=block,
            step=video.steps,
            steps=video.steps,
            runs=(),
            prompt=frames,
            leaves=(Leave(frames=frames),),
            sees=seen_past(frames.start, video),
            later=(past,),
            left_later=(past,) if self._recaches_after(block, video) else (),
        )

    def _recaches_after(self, block: int, video: Video) -> bool:
        return self.recache and self._cut.changes_after(block, video)


def seen_past(stop: int, video: Video) -> tuple[Seen, ...]:
    """Return all finished frames before a block as what it may see."""
    if not stop:
        return ()
    return (Seen(frames=FrameRange(0, stop), version=video.steps, own_level=True),)


def recache_task(
    index: int,
    iteration: int,
    cut: EqualBlocks,
    block: int,
    video: Video,
    *,
    passed: int,
    finished: int,
) -> Task:
    """Return the pass that makes kept keys and values anew for a block with another prompt.

    Args:
        index: Of the task.
        iteration: In which it runs.
        cut: The video's blocks.
        block: Whose prompt it is.
        video: What the task is for.
        passed: The first block that has had no clean pass.
        finished: The first block that is not finished.
    """
    past = FrameRange(0, cut.frames(passed, video.latent_frames).start)
    done = FrameRange(0, cut.frames(finished, video.latent_frames).start)
    left_later = FrameRange(0 if cut.changes_after(block, video) else past.stop, done.stop)
    return Task(
        index=index,
        iteration=iteration,
        block=passed - 1,
        step=video.steps,
        steps=video.steps,
        runs=(),
        prompt=cut.frames(block, video.latent_frames),
        leaves=(Leave(frames=past, anew=True),),
        later=(done,),
        left_later=(left_later,) if len(left_later) else (),
    )
