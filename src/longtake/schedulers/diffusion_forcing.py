"""DiffusionForcing: blocks at staggered noise levels in a moving window (SkyReels-V2)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import final

from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.schedulers.base import BlockScheduler
from longtake.schedulers.cards import DIFFUSION_FORCING
from longtake.schedulers.cuts import EqualBlocks
from longtake.task import FrameRange, Leave, Seen, Task, Video


@final
class DiffusionForcing(BlockScheduler):
    """Denoise blocks that lag behind each other, each seeing the older ones of the window.

    SkyReels-V2's asynchronous mode (arXiv 2504.13074, its ``ar_step`` and ``causal_block_size``).
    The published code forwards a window of blocks jointly, with a mask that hides younger blocks
    from older ones. The same sums need no mask: blocks run oldest first in each iteration, and read
    what the older ones have just left. Finished blocks are passed once, and again when the window
    moves, since they then see fewer frames. diffusers' pipeline makes the same video, but never
    moves its window within a clip, and leaves frames behind the last whole block as noise.

    Use it with ``RollingKV(frames=length)`` and independent noise.

    Args:
        block_frames: Latent frames of a block.
        lag: Iterations by which a block lags behind the one before it (SkyReels' ``ar_step``).
        length: Latent frames of the window: the model's own clip length.
    """

    cards = (DIFFUSION_FORCING,)

    def __init__(self, block_frames: int = 5, lag: int = 5, length: int = 25) -> None:
        self._cut = EqualBlocks(block_frames)
        if lag < 1:
            raise ConfigurationError(f"lag is {lag}; the smallest is 1.")
        if length < block_frames:
            raise ConfigurationError(
                f"length is {length}, but a block alone has {block_frames} latent frames "
                f"(block_frames): choose {block_frames} or more."
            )
        self.block_frames = block_frames
        self.lag = lag
        self.length = length

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        yield from self._cut.all(latent_frames)

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        size = self.length // self.block_frames
        if self.lag * size < video.steps and self._cut.exists(size, video.latent_frames):
            raise ConfigurationError(
                f"lag is {self.lag}, but of {video.steps} steps a window of {size} blocks that "
                f"moves needs a lag of at least {-(-video.steps // size)}: otherwise blocks leave "
                f"it unfinished. Choose that, or a video of {size * self.block_frames} latent "
                f"frames at most."
            )
        numbers, newest, first = count(), 0, 0
        for iteration in count():
            started = iteration // self.lag
            while newest < started and self._cut.exists(newest + 1, video.latent_frames):
                newest += 1
            moved, first = max(0, newest + 1 - size) > first, max(0, newest + 1 - size)
            more = self._cut.exists(newest + 1, video.latent_frames)
            if iteration - self.lag * newest >= video.steps and not more:
                return
            for block in range(first, newest + 1):
                step = iteration - self.lag * block
                again = step == video.steps or (moved and step > video.steps)
                if step < video.steps or (again and self._is_seen(block, video)):
                    yield self._task(next(numbers), iteration, block, first, newest, video)

    @override
    def blocks_in_flight(self, video: Video) -> int:
        # Oldest first: a block has taken its last step before the next one enters.
        most = max(1, (video.steps - 2) // self.lag + 1)
        if video.latent_frames is None:
            return most
        return min(most, -(-video.latent_frames // self.block_frames))

    def _is_seen(self, block: int, video: Video) -> bool:
        """Whether a later block may see what a pass over a finished one leaves."""
        return self._cut.exists(block + 1, video.latent_frames)

    def _task(
        self, index: int, iteration: int, block: int, first: int, newest: int, video: Video
    ) -> Task:
        step = min(video.steps, iteration - self.lag * block)
        frames = self._cut.frames(block, video.latent_frames)
        runs = () if step == video.steps else (self._cut.run(block, step, video),)
        stop = self._cut.start(self._done(iteration, block, video), video.latent_frames)
        start = min(self._cut.start(first, video.latent_frames), stop)
        later: tuple[FrameRange, ...] = ()
        if stop > start and self._goes_on(block, step, video):
            later = (FrameRange(start, stop),)
        leaves = not runs or block < newest
        sees = [
            Seen(
                frames=self._cut.frames(older, video.latent_frames),
                version=min(video.steps, iteration - self.lag * older + 1),
                own_level=True,
            )
            for older in range(first, block)
        ]
        return Task(
            index=index,
            iteration=iteration,
            block=block,
            step=step,
            steps=video.steps,
            runs=runs,
            prompt=frames,
            leaves=(Leave(frames=frames),) if leaves else (),
            sees=tuple(sees),
            enters=() if step else (self._cut.enter(block, video),),
            later=later,
            left_later=later,
        )

    def _done(self, iteration: int, block: int, video: Video) -> int:
        """Return the first block that is not finished when a block's task has run."""
        before = (iteration - video.steps) // self.lag + 1
        own = min(block, (iteration - video.steps + 1) // self.lag) + 1
        return max(0, before, own)

    def _goes_on(self, block: int, step: int, video: Video) -> bool:
        last = not self._cut.exists(block + 1, video.latent_frames)
        return not (last and step >= video.steps - 1)
