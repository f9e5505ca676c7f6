"""ContextWindows: overlapping windows at one noise level, their predictions fused (ComfyUI)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Final, Literal, final

from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.schedulers.base import BlockScheduler
from longtake.schedulers.cards import CONTEXT_WINDOWS
from longtake.schedulers.cuts import finite
from longtake.schedulers.fuse_weights import FUSE_WEIGHTS, shares
from longtake.schedulers.window_lists import WINDOW_LISTS, WindowShape
from longtake.task import Enter, FrameRange, Run, Task, Video

_WHY: Final = "ContextWindows denoises all frames together"


@final
class ContextWindows(BlockScheduler):
    """Denoise the whole video at one noise level, in overlapping windows that are fused.

    The training-free method that ComfyUI users know; MultiDiffusion along time. At every step each
    window is forwarded on its own, its positions beginning at 0, and the video takes one sampler
    step with the weighted mean of the windows' predictions. Windows of one step do not see each
    other, so stages work on several at once. All latents are held until the end: memory grows with
    the length, and the first frame comes when all are done. ``noise: FreeNoise`` with the same
    length and overlap makes the windows alike.

    Args:
        length: Latent frames of a window: the model's own clip length.
        overlap: Latent frames that adjacent windows share.
        schedule: ``static``: the same windows at every step; ``uniform``: they move from step to
            step; ``looped``: and go round from the end to the beginning, for a video that loops;
            ``looped_open``: as looped, but none begins within the last ``overlap`` frames;
            ``batched``: no overlap.
        fuse: Weights of a window's frames: ``pyramid``, ``flat``, ``overlap-linear`` (ramps over
            the overlap) or ``relative`` (by the distance from the window's middle).
        stride: How many strides (1, 2, 4, ...) ``uniform`` and ``looped`` use at most.
    """

    cards = (CONTEXT_WINDOWS,)

    def __init__(
        self,
        length: int = 21,
        overlap: int = 7,
        schedule: Literal["static", "uniform", "looped", "looped_open", "batched"] = "uniform",
        fuse: Literal["pyramid", "flat", "overlap-linear", "relative"] = "pyramid",
        stride: int = 1,
    ) -> None:
        self._shape = WindowShape(length=length, overlap=overlap, stride=stride)
        if stride > 1 and schedule in ("static", "batched"):
            raise ConfigurationError(
                f"stride is {stride}, but the windows of schedule {schedule} hold consecutive "
                f"frames; leave stride out, or choose the schedule uniform or looped."
            )
        self.length = length
        self.overlap = overlap
        self.schedule = schedule
        self.fuse = fuse
        self.stride = stride

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        yield FrameRange(0, finite(latent_frames, _WHY))

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        frames = FrameRange(0, finite(video.latent_frames, _WHY))
        list_windows, weigh, numbers = WINDOW_LISTS[self.schedule], FUSE_WEIGHTS[self.fuse], count()
        for step in range(video.steps):
            windows = list_windows(len(frames), self._shape, step)
            weights = [weigh(window, len(frames), self.overlap) for window in windows]
            for number, (window, share) in enumerate(
                zip(windows, shares(windows, weights), strict=True)
            ):
                advances = number == len(windows) - 1
                run = Run(
                    block=0,
                    block_frames=frames,
                    step=step,
                    frames=window,
                    advances=advances,
                    last_step=advances and step == video.steps - 1,
                    weights=share,
                    positions=tuple(range(len(window))),
                )
                yield Task(
                    index=next(numbers),
                    iteration=step,
                    block=0,
                    step=step,
                    steps=video.steps,
                    runs=(run,),
                    prompt=FrameRange.around(window),
                    enters=() if step or number else (Enter(block=0, frames=frames),),
                )

    @override
    def blocks_in_flight(self, video: Video) -> int:
        return 1
