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
                index, again = next(numbers), self._recaches_after(block, video)
                yield clean_task(index, index, self._cut, block, video, again=again)

    @override
    def blocks_in_flight(self, video: Video) -> int:
        return 1

    def _denoise(self, index: int, block: int, frames: FrameRange, step: int, video: Video) -> Task:
        run, past = self._cut.run(block, step, video), FrameRange(0, frames.start)
        if run.last_step:
            past = FrameRange(0, frames.stop)
        again = self._recaches_after(block, video)
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
            left_later=left_later(frames.start, past.stop, again=again) if more else (),
        )

    def _recaches_after(self, block: int, video: Video) -> bool:
        return self.recache and self._cut.changes_after(block, video)


def seen_past(stop: int, video: Video) -> tuple[Seen, ...]:
    """Return all finished frames before a block as what it may see."""
    if not stop:
        return ()
    return (Seen(frames=FrameRange(0, stop), version=video.steps, own_level=True),)


def left_later(passed: int, done: int, *, again: bool) -> tuple[FrameRange, ...]:
    """Return the finished frames that wait for their clean pass, and those that are passed again.

    Args:
        passed: The first frame of a block that has had no clean pass.
        done: The first frame of a block that is not finished.
        again: Whether the prompt still changes, so that those passed are passed once more.
    """
    spans = (FrameRange(0, passed if again else 0), FrameRange(passed, done))
    return tuple(span for span in spans if len(span))


def clean_task(
    index: int, iteration: int, cut: EqualBlocks, block: int, video: Video, *, again: bool = False
) -> Task:
    """Return the clean pass over a finished block, for the keys and values that later ones see.

    Args:
        index: Of the task.
        iteration: In which it runs.
        cut: The video's blocks.
        block: Which block.
        video: What the task is for.
        again: Whether the prompt still changes, so that what is passed is passed once more.
    """
    frames = cut.frames(block, video.latent_frames)
    past = FrameRange(0, frames.stop)
    return Task(
        index=index,
        iteration=iteration,
        block=block,
        step=video.steps,
        steps=video.steps,
        runs=(),
        prompt=frames,
        leaves=(Leave(frames=frames),),
        sees=seen_past(frames.start, video),
        later=(past,),
        left_later=(past,) if again else (),
    )


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
    again = cut.changes_after(block, video)
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
        left_later=left_later(past.stop, done.stop, again=again),
    )
