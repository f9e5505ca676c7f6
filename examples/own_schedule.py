"""A schedule of one's own: block after block, each of which sees the last frames of the one before.

In YAML, with the folder of this file in ``PYTHONPATH``::

    model:
      scheduler: {class_path: own_schedule.OneByOne, init_args: {block_frames: 6}}
      cache: NoCache
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import final

from typing_extensions import override

from longtake.api import (
    BlockScheduler,
    ConfigurationError,
    Enter,
    FrameRange,
    Run,
    Seen,
    Task,
    Video,
)


@final
class OneByOne(BlockScheduler):
    """Denoise a block through all its steps, then the next one.

    Args:
        block_frames: Latent frames of a block.
        context_frames: Finished latent frames before it that a block sees.
    """

    def __init__(self, block_frames: int = 6, context_frames: int = 2) -> None:
        if block_frames < 1 or context_frames < 0:
            raise ConfigurationError(
                f"block_frames is {block_frames} and context_frames {context_frames}; a block "
                f"holds at least 1 latent frame, and sees 0 or more."
            )
        self.block_frames = block_frames
        self.context_frames = context_frames

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        for start in count(0, self.block_frames):
            if latent_frames is None:
                yield FrameRange(start, start + self.block_frames)
            elif start < latent_frames:
                yield FrameRange(start, min(start + self.block_frames, latent_frames))
            else:
                return

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        numbers = count()
        for block, frames in enumerate(self.blocks(video.latent_frames)):
            before = FrameRange(0, frames.start).last(self.context_frames)
            for step in range(video.steps):
                index, last = next(numbers), step == video.steps - 1
                later = FrameRange(0, frames.stop).last(self.context_frames) if last else before
                ends = last and frames.stop == video.latent_frames
                yield Task(
                    index=index,
                    iteration=index,
                    block=block,
                    step=step,
                    steps=video.steps,
                    runs=(
                        Run(
                            block=block,
                            block_frames=frames,
                            step=step,
                            frames=frames.each,
                            last_step=last,
                        ),
                    ),
                    prompt=frames,
                    enters=() if step else (Enter(block=block, frames=frames),),
                    sees=(Seen(frames=before, version=video.steps),) if len(before) else (),
                    later=(later,) if len(later) and not ends else (),
                )

    @override
    def blocks_in_flight(self, video: Video) -> int:
        return 1
