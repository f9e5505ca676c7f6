"""Cuts of a video into blocks, for schedules that share them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from longtake.errors import ConfigurationError
from longtake.task import Enter, FrameRange, Run, Video


@dataclass(frozen=True, slots=True)
class EqualBlocks:
    """Blocks of one length; the first one may be longer, the last one takes what is left.

    Args:
        size: Latent frames of a block, 1 or more.
        longer: Latent frames that the first block has beside these.

    Raises:
        ConfigurationError: ``size`` is below 1.
    """

    size: int
    longer: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigurationError(
                f"block_frames is {self.size}, but a block holds at least 1 latent frame."
            )

    def exists(self, block: int, latent_frames: int | None) -> bool:
        """Whether a video has such a block."""
        return latent_frames is None or self._start(block) < latent_frames

    def start(self, block: int, latent_frames: int | None) -> int:
        """Return a block's first latent frame; the video's end for a block that it has not."""
        start = self._start(block)
        return start if latent_frames is None else min(start, latent_frames)

    def frames(self, block: int, latent_frames: int | None) -> FrameRange:
        """Return a block's latent frames."""
        return FrameRange(self._start(block), self.start(block + 1, latent_frames))

    def all(self, latent_frames: int | None) -> Iterator[FrameRange]:
        """Yield all blocks' latent frames."""
        for block in count():
            if not self.exists(block, latent_frames):
                return
            yield self.frames(block, latent_frames)

    def run(self, block: int, step: int, video: Video) -> Run:
        """Return the denoising of a whole block at a step, which its sampler step follows."""
        frames = self.frames(block, video.latent_frames)
        return Run(
            block=block,
            block_frames=frames,
            step=step,
            frames=frames.each,
            last_step=step == video.steps - 1,
        )

    def enter(self, block: int, video: Video) -> Enter:
        """Return a block that comes in with fresh noise."""
        return Enter(block=block, frames=self.frames(block, video.latent_frames))

    def changes_before(self, block: int, video: Video) -> bool:
        """Whether the prompt changes with a block: after the start of the one before it."""
        return block in self._changed(video)

    def changes_after(self, block: int, video: Video) -> bool:
        """Whether the prompt changes with a later block."""
        changed = self._changed(video)
        return any(one > block and self.exists(one, video.latent_frames) for one in changed)

    def _start(self, block: int) -> int:
        return block * self.size + (self.longer if block else 0)

    def _changed(self, video: Video) -> set[int]:
        """Return the blocks with which the prompt changes: the first that begin at it or later."""
        return {
            max(min(1, change), -(-(change - self.longer) // self.size))
            for change in video.prompt_changes
        }


def finite(latent_frames: int | None, why: str) -> int:
    """Return a video's length for a schedule that needs one.

    Args:
        latent_frames: The length; ``None`` for an endless video.
        why: The scheduler, and what it does that needs an end.

    Raises:
        ConfigurationError: The video is endless.
    """
    if latent_frames is None:
        raise ConfigurationError(
            f"num_frames is null (an endless video), but {why}; use the FifoQueue scheduler for an "
            f"endless video, or give num_frames."
        )
    return latent_frames
