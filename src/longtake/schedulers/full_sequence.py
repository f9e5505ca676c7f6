"""FullSequence: one block that holds every frame, as in an ordinary pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

from typing_extensions import override

from longtake.schedulers.base import BlockScheduler
from longtake.schedulers.cards import ORDINARY
from longtake.schedulers.cuts import finite
from longtake.task import Enter, FrameRange, Run, Task, Video

_WHY: Final = "FullSequence denoises all frames at once"


@final
class FullSequence(BlockScheduler):
    """Denoise all frames as one block, as an ordinary diffusers pipeline does.

    Memory and attention grow with the length; exact sequence parallelism accelerates it. Use it
    for clips up to the model's native length.
    """

    cards = (ORDINARY,)

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        yield FrameRange(0, finite(latent_frames, _WHY))

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        frames = FrameRange(0, finite(video.latent_frames, _WHY))
        for step in range(video.steps):
            run = Run(
                block=0,
                block_frames=frames,
                step=step,
                frames=frames.each,
                last_step=step == video.steps - 1,
            )
            yield Task(
                index=step,
                iteration=step,
                block=0,
                step=step,
                steps=video.steps,
                runs=(run,),
                prompt=frames,
                enters=() if step else (Enter(block=0, frames=frames),),
            )

    @override
    def blocks_in_flight(self, video: Video) -> int:
        return 1
