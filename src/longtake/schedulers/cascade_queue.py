"""CascadeQueue: blocks of a causal model in flight together, oldest first (Block Cascading)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import final

from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.schedulers.autoregressive import clean_task, left_later, recache_task, seen_past
from longtake.schedulers.base import BlockScheduler
from longtake.schedulers.cards import BLOCK_CASCADING
from longtake.schedulers.cuts import EqualBlocks
from longtake.task import FrameRange, Leave, Seen, Task, Video


@final
class CascadeQueue(BlockScheduler):
    """Begin a block of a causal model before the one before it is finished.

    Block Cascading (arXiv 2511.20426) and the stream batch of StreamDiffusionV2 (arXiv
    2511.07399). One block comes in every ``stride`` iterations; each iteration runs every block in
    flight once, oldest first, so that a block sees the older ones through the keys and values that
    they have just left, noisy as they are. A clean pass over a finished block leaves those that
    stay. Stages of a pipeline work on several blocks at once. With a stride of ``steps + 1`` or
    more only one block is in flight: bit for bit what ``Autoregressive`` makes.

    Use it with ``RollingKV``, independent noise and a stochastic few-step sampler.

    Args:
        block_frames: Latent frames of a block: what the model was trained with, mostly 3.
        stride: Iterations between two blocks' entries; a smaller one has more blocks in flight,
            which see each other noisier.
        recache: Whether to make kept keys and values anew where the prompt changes (LongLive).
    """

    cards = (BLOCK_CASCADING,)

    def __init__(self, block_frames: int = 3, stride: int = 1, recache: bool = True) -> None:
        if stride < 1:
            raise ConfigurationError(f"stride is {stride}; the smallest is 1.")
        self._cut = EqualBlocks(block_frames)
        self.block_frames = block_frames
        self.stride = stride
        self.recache = recache

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        yield from self._cut.all(latent_frames)

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        numbers = count()
        oldest = 0
        for iteration in count():
            if iteration - self.stride * oldest > video.steps:
                oldest += 1
            if not self._cut.exists(oldest, video.latent_frames):
                return
            for block in range(oldest, iteration // self.stride + 1):
                step = iteration - self.stride * block
                if not self._cut.exists(block, video.latent_frames):
                    break
                if not step and block and self._recaches_before(iteration, block, video):
                    yield self._recache(next(numbers), iteration, block, video)
                if step < video.steps:
                    yield self._denoise(next(numbers), iteration, block, video)
                elif self._cut.exists(block + 1, video.latent_frames):
                    again = self.recache and self._cut.changes_after(block, video)
                    yield clean_task(next(numbers), iteration, self._cut, block, video, again=again)

    @override
    def blocks_in_flight(self, video: Video) -> int:
        # The oldest one is finished, first in its iteration, when the newest one begins.
        most = max(1, -(-(video.steps - 1) // self.stride))
        if video.latent_frames is None:
            return most
        return min(most, -(-video.latent_frames // self.block_frames))

    def _passed(self, iteration: int, block: int, video: Video) -> int:
        """Return the first block that has had no clean pass when a block's task runs."""
        passed = (iteration - video.steps) // self.stride + 1
        return min(max(0, passed), block)

    def _recaches_before(self, iteration: int, block: int, video: Video) -> bool:
        passed = self._passed(iteration, block, video)
        return self.recache and passed > 0 and self._cut.changes_before(block, video)

    def _recache(self, index: int, iteration: int, block: int, video: Video) -> Task:
        passed = self._passed(iteration, block, video)
        finished = self._done(iteration, block, video)
        return recache_task(
            index, iteration, self._cut, block, video, passed=passed, finished=finished
        )

    def _denoise(self, index: int, iteration: int, block: int, video: Video) -> Task:
        step = iteration - self.stride * block
        run = self._cut.run(block, step, video)
        done = block + 1 if run.last_step else self._done(iteration, block, video)
        past = FrameRange(0, self._cut.start(done, video.latent_frames))
        passed = self._passed(iteration, block, video)
        again = self.recache and self._cut.changes_after(passed, video)
        waiting = left_later(self._cut.start(passed, video.latent_frames), past.stop, again=again)
        more = self._cut.exists(block + 1, video.latent_frames)
        younger = more and iteration >= self.stride * (block + 1)
        return Task(
            index=index,
            iteration=iteration,
            block=block,
            step=step,
            steps=video.steps,
            runs=(run,),
            prompt=run.block_frames,
            leaves=(Leave(frames=run.block_frames),) if younger else (),
            sees=self._sees(iteration, block, video),
            enters=() if step else (self._cut.enter(block, video),),
            later=(past,) if len(past) and (more or not run.last_step) else (),
            left_later=waiting if more or not run.last_step else (),
        )

    def _sees(self, iteration: int, block: int, video: Video) -> tuple[Seen, ...]:
        """Return the finished frames, and the blocks in flight before this one, as they stand."""
        done = self._done(iteration, block, video)
        seen = list(seen_past(self._cut.start(done, video.latent_frames), video))
        for older in range(done, block):
            version = min(video.steps, iteration - self.stride * older + 1)
            frames = self._cut.frames(older, video.latent_frames)
            seen.append(Seen(frames=frames, version=version, own_level=True))
        return tuple(seen)

    def _done(self, iteration: int, block: int, video: Video) -> int:
        """Return the first block that is not finished when a block's task begins."""
        return min(block, max(0, (iteration - video.steps + 1) // self.stride + 1))
