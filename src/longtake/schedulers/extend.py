"""Extend: clip after clip, each of which sees the end of the one before as known frames."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import final

from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.schedulers.base import BlockScheduler
from longtake.schedulers.cards import EXTENSION
from longtake.schedulers.cuts import EqualBlocks
from longtake.task import FrameRange, Seen, Task, Video


@final
class Extend(BlockScheduler):
    """Denoise one clip through all its steps, then the next one, which goes on where it ended.

    For models that take known frames as latents, each frame with a timestep of its own:
    SkyReels-V2's synchronous long videos, LongCat-Video's continuation. A later clip forwards the
    last ``overlap`` frames before it, finished, with its own; their noise level is told, so they
    stay what they are. Little is remembered from clip to clip, and errors add up.

    Args:
        length: Latent frames of a clip, the overlap included: the model's own clip length.
        overlap: Latent frames of the clip before that a clip sees.
        noised: Share of fresh noise that these are mixed with and told, against errors that add up
            (SkyReels' ``addnoise_condition`` of 20 is 0.02).
    """

    cards = (EXTENSION,)

    def __init__(self, length: int = 25, overlap: int = 5, noised: float = 0.0) -> None:
        if not 0 <= overlap < length:
            raise ConfigurationError(
                f"overlap is {overlap}, but a clip of {length} latent frames (length) has frames "
                f"of its own: choose 0 to {length - 1}."
            )
        if not 0 <= noised < 1:
            raise ConfigurationError(f"noised is {noised}; it is a share, from 0 to below 1.")
        self._cut = EqualBlocks(length - overlap, overlap)
        self.length = length
        self.overlap = overlap
        self.noised = noised

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        yield from self._cut.all(latent_frames)

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        numbers = count()
        for block, frames in enumerate(self.blocks(video.latent_frames)):
            more = self._cut.exists(block + 1, video.latent_frames)
            before = FrameRange(max(0, frames.start - self.overlap), frames.start)
            for step in range(video.steps):
                index, last = next(numbers), step == video.steps - 1
                seen = Seen(frames=before, version=video.steps, noised=self.noised, own_level=True)
                later = FrameRange(0, frames.stop).last(self.overlap) if last else before
                yield Task(
                    index=index,
                    iteration=index,
                    block=block,
                    step=step,
                    steps=video.steps,
                    runs=(self._cut.run(block, step, video),),
                    prompt=frames,
                    sees=(seen,) if len(before) else (),
                    enters=() if step else (self._cut.enter(block, video),),
                    later=(later,) if len(later) and (more or not last) else (),
                )

    @override
    def blocks_in_flight(self, video: Video) -> int:
        return 1
