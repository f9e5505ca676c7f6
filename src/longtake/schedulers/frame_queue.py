"""FrameQueue: single frames at progressively different noise levels (FIFO-Diffusion)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import final

from typing_extensions import override

from longtake.errors import ConfigurationError
from longtake.schedulers.base import BlockScheduler
from longtake.schedulers.cards import FIFO_DIFFUSION
from longtake.task import Enter, FrameRange, Run, Seen, Task, Video


@final
class FrameQueue(BlockScheduler):
    """Denoise frame after frame through a queue in which each is one step behind the older one.

    FIFO-Diffusion (arXiv 2405.11473). The queue holds ``clip_frames * partitions`` frames, which is
    also the number of steps. An iteration forwards ``clip_frames`` of them at a time, each frame at
    its own noise level, and takes all of them one step further: one frame comes out. With lookahead
    only the noisier half of a forward is kept, so every frame sees ``clip_frames / 2`` cleaner
    ones, for twice the forwards.

    The queue starts from a clip, each of whose frames is noised to its place's level: the video's
    known frames where it starts with as many, or one that is made first. Warm-up frames before it
    and frames behind the video's end are denoised and never emitted. Needs a model that takes a
    timestep per latent frame (``model.timesteps_per: frame``).

    Args:
        clip_frames: Latent frames of a forward; even with ``lookahead``.
        partitions: Forwards' worth of frames in the queue.
        lookahead: Whether only the noisier half of each forward is kept.
    """

    cards = (FIFO_DIFFUSION,)
    known_frames = "copied"

    def __init__(self, clip_frames: int = 16, partitions: int = 4, lookahead: bool = True) -> None:
        if clip_frames < 1 or partitions < 1:
            raise ConfigurationError(
                f"clip_frames is {clip_frames} and partitions {partitions}; each is 1 or more."
            )
        if lookahead and clip_frames % 2:
            raise ConfigurationError(
                f"clip_frames is {clip_frames}, but with lookahead a forward is cut into halves: "
                f"choose {clip_frames + 1}, or lookahead: false."
            )
        self.clip_frames = clip_frames
        self.partitions = partitions
        self.lookahead = lookahead

    @override
    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        for frame in count():
            if latent_frames is not None and frame >= latent_frames:
                return
            yield FrameRange(frame, frame + 1)

    @override
    def tasks(self, video: Video) -> Iterator[Task]:
        size = self.clip_frames * self.partitions
        if video.steps != size:
            raise ConfigurationError(
                f"FrameQueue runs as many steps as it holds frames, clip_frames "
                f"({self.clip_frames}) times partitions ({self.partitions}), which is {size}, not "
                f"{video.steps}: set model.steps to {size}."
            )
        numbers = count()
        known = video.known >= self.clip_frames
        if not known:
            yield from self._clip(numbers, video)
        for iteration in count():
            newest = iteration + self.clip_frames - 1
            if video.latent_frames is not None and newest >= video.latent_frames + size - 1:
                return
            enters = self._start(known, video) if not iteration else (self._fresh(newest, video),)
            for task in self._iteration(numbers, iteration, video):
                yield replace(task, enters=enters)
                enters = ()

    @override
    def blocks_in_flight(self, video: Video) -> int:
        return self.clip_frames * self.partitions

    @property
    def _half(self) -> int:
        """Frames by which forwards follow each other, and that each takes further."""
        return self.clip_frames // 2 if self.lookahead else self.clip_frames

    def _iteration(self, numbers: Iterator[int], iteration: int, video: Video) -> Iterator[Task]:
        """Yield one iteration's forwards, noisiest first; none reads what another one steps."""
        size, half = video.steps, self._half
        first = iteration + self.clip_frames - size  # the cleanest frame, with one step to go
        forwards = size // half
        for number in reversed(range(forwards)):
            own = FrameRange(first + number * half, first + (number + 1) * half)
            runs = tuple(self._run(frame, iteration, video) for frame in own.each)
            sees = self._sees(own, iteration, video) if self.lookahead else ()
            ahead = first + (number == 0)
            done = FrameRange(ahead - half, ahead)
            yield Task(
                index=next(numbers),
                iteration=size * (video.known < self.clip_frames) + iteration,
                block=runs[0].block,
                step=runs[0].step,
                steps=size,
                runs=runs,
                prompt=FrameRange(max(0, first), max(0, first) + 1),
                sees=sees,
                later=(done,) if self.lookahead else (),
            )

    def _run(self, frame: int, iteration: int, video: Video) -> Run:
        step = iteration + self.clip_frames - 1 - frame
        return Run(
            block=_block(frame, video),
            block_frames=FrameRange(frame, frame + 1),
            step=step,
            frames=(frame,),
            last_step=step == video.steps - 1,
        )

    def _sees(self, own: FrameRange, iteration: int, video: Video) -> tuple[Seen, ...]:
        """Return the cleaner half of a forward; finished frames are told the last step's level."""
        seen = []
        for frame in range(own.start - self._half, own.start):
            version = min(video.steps, iteration + self.clip_frames - 1 - frame)
            done = version == video.steps
            seen.append(
                Seen(
                    frames=FrameRange(frame, frame + 1),
                    version=version,
                    told=video.steps - 1 if done else None,
                    own_level=True,
                )
            )
        return tuple(seen)

    def _clip_frames_at(self, video: Video) -> FrameRange:
        """Return the numbers of the clip's frames: before all warm-up frames."""
        stop = self.clip_frames - video.steps - self._half * self.lookahead
        return FrameRange(stop - self.clip_frames, stop)

    def _clip(self, numbers: Iterator[int], video: Video) -> Iterator[Task]:
        """Yield the ordinary denoising of the clip that the queue starts from."""
        frames = self._clip_frames_at(video)
        for step in range(video.steps):
            run = Run(
                block=frames.start,
                block_frames=frames,
                step=step,
                frames=frames.each,
                last_step=step == video.steps - 1,
            )
            yield Task(
                index=next(numbers),
                iteration=step,
                block=frames.start,
                step=step,
                steps=video.steps,
                runs=(run,),
                prompt=FrameRange(0, 1),
                enters=() if step else (Enter(block=frames.start, frames=frames),),
                later=(frames,) if run.last_step else (),
            )

    def _start(self, known: bool, video: Video) -> tuple[Enter, ...]:
        """Return the frames of the first queue: copies of the clip's, each at its level."""
        clip, enters = self._clip_frames_at(video), []
        if known:
            enters.append(Enter(block=clip.start, frames=clip, version=video.steps))
        for frame in range(clip.stop, self.clip_frames):
            version = min(video.steps, self.clip_frames - 1 - frame)
            enters.append(
                Enter(
                    block=_block(frame, video),
                    frames=FrameRange(frame, frame + 1),
                    version=version,
                    source=(clip.start + max(0, frame),),
                    # Those in front are finished, though as noisy as the next one to be.
                    level=min(version, video.steps - 1),
                )
            )
        return tuple(enters)

    def _fresh(self, frame: int, video: Video) -> Enter:
        return Enter(block=_block(frame, video), frames=FrameRange(frame, frame + 1))


def _block(frame: int, video: Video) -> int:
    """Return a frame's block: itself, or a negative number where it is never emitted."""
    if frame < 0 or video.latent_frames is None or frame < video.latent_frames:
        return frame
    return video.latent_frames - 4 * video.steps - 1 - frame
