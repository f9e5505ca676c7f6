"""FullSequence: one block that holds every frame, as in an ordinary pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.schedulers.base import BlockScheduler
from longtake.task import FrameRange, Task


@final
class FullSequence(BlockScheduler):
    """Denoise all frames as one block, as an ordinary diffusers pipeline does.

    Memory and attention grow with the length; exact sequence parallelism accelerates it. Use it
    for clips up to the model's native length.
    """

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        yield FrameRange(0, _finite(latent_frames))

    @override
    def tasks(self, latent_frames: int | None, steps: int) -> Iterator[Task]:
        frames = FrameRange(0, _finite(latent_frames))
        for step in range(steps):
            yield Task(
                index=step,
                iteration=step,
                block=0,
                step=step,
                frames=frames,
                before=None,
                after=None,
                last_step=step == steps - 1,
            )

    @override
    def blocks_in_flight(self, latent_frames: int | None, steps: int) -> int:
        return 1


def _finite(latent_frames: int | None) -> int:
    if latent_frames is None:
        raise ConfigurationError(
            "num_frames is null (an endless video), but FullSequence denoises all frames at once; "
            "use the FifoQueue scheduler for an endless video, or give num_frames."
        )
    return latent_frames
