"""Denoising: what a strategy is given, and the progress that it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import dropwhile
from typing import Any, TypeAlias

import torch
from torch import Tensor

from longtake.caches import FeatureCache, Forward, KeptFormat, forwards
from longtake.comm.communicator import Communicator
from longtake.guidance import Guidance
from longtake.models import AnyBackbone, BlockSampler, ConditioningFrames, KnownFrames, Sampler
from longtake.models.layers.kernel import AttentionChoice
from longtake.models.samplers.base import SamplerState
from longtake.noise import StepNoise
from longtake.plan.ir.actions import Action
from longtake.reuse import LayerReuse
from longtake.strategies.pipedit.co_attention import CoAttention
from longtake.strategies.runtime.cuts import Cuts, CutState
from longtake.task import Enter, FrameRange, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Denoising:
    """The denoising of one request: everything that a strategy needs, and no more.

    Args:
        backbone: With the layers that the strategy asked for on this rank.
        tasks: The schedule, in serial order; endless for an endless video. Read once.
        noise: The starting noise of block 0, 1, 2, ..., fp32 on the CPU. Read once.
        cache: How tasks see their neighbors.
        sampler: Noise levels, and the start of every block's sampler state.
        guidance: The branches of every task, and what joins them.
        text: Gives what ``Backbone.condition_text`` made of the prompt of some latent frames,
            for a range of guidance branches.
        height: Latent height ``H``.
        width: Latent width ``W``.
        device: Where the backbone's weights are.
        attention: diffusers' attention backend, or a kernel of one's own.
        dtype: Of hidden states.
        communicator: The ranks of the run.
        start: What is known of the video before it is made; ``None``: nothing.
        start_noise: Share of a block's noise that its known frames are seen with, where all
            frames have one timestep.
        co_attention: With decode ranks that attend some of this rank's heads.
        request: Number of the request in the run.
        step_noise: The noise of each sampler step, for a stochastic sampler, and of warm-up blocks.
        clip: Known frames ``(1, C, F, H, W)`` that the schedule's blocks are copies of, instead of
            being held in their place.
        cuts: Where the request is cut, for what it holds to be saved; ``None``: nowhere.
        reuse: When the layers behind the first are reused; ``None``: never.
        kept: The format that kept keys and values are held in.
        resumed: What it held at the cut from which on it goes on; ``None``: it begins.
    """

    backbone: AnyBackbone
    tasks: Iterable[Task]
    noise: Iterator[Tensor]
    cache: FeatureCache
    sampler: Sampler
    guidance: Guidance
    text: Callable[[FrameRange, range], Any]
    height: int
    width: int
    device: torch.device
    attention: AttentionChoice = "native"
    dtype: torch.dtype = torch.float32
    communicator: Communicator = field(default_factory=Communicator.alone)
    start: ConditioningFrames | None = None
    start_noise: float = 0.5
    co_attention: CoAttention | None = None
    request: int = 0
    step_noise: StepNoise | None = None
    clip: Tensor | None = None
    cuts: Cuts | None = None
    reuse: LayerReuse | None = None
    kept: KeptFormat = "model"
    resumed: CutState | None = None

    def __post_init__(self) -> None:
        if self.sampler.stochastic and self.step_noise is None:
            raise ValueError("a stochastic sampler needs step_noise")

    @property
    def forwards(self) -> Iterator[Forward]:
        """The tasks that are to be done, with what the cache makes of them."""
        walked, resumed = forwards(self.tasks, self.cache), self.resumed
        if resumed is None:
            return walked
        return dropwhile(lambda forward: forward.task.index < resumed.index, walked)

    def noise_for(self, enter: Enter) -> Tensor:
        """Return the starting noise of a block that comes in, on the device.

        Blocks of the video come in in the order of time.
        """
        if enter.block >= 0:
            return next(self.noise).to(self.device)
        if self.step_noise is None:
            raise ValueError("warm-up blocks need step_noise")
        return self.step_noise.draw(enter.block, -1, len(enter.frames)).to(self.device)

    def begin(self, frames: FrameRange, noise: Tensor) -> tuple[Tensor, BlockSampler]:
        """Return the latents that a block's first step sees, and the block's sampler.

        Args:
            frames: The block's latent frames.
            noise: Its starting noise ``(1, C, F, H, W)`` on the device.
        """
        sampler, latents = self.sampler.start(), self.sampler.first(self._with_image(noise))
        steps = self._holding(frames, noise, sampler)
        return (latents, sampler) if steps is None else (steps.hold(latents), steps)

    def go_on(self, frames: FrameRange, noise: Tensor | None, state: SamplerState) -> BlockSampler:
        """Return the sampler of a block that has been stepped before.

        Args:
            frames: The block's latent frames.
            noise: Its starting noise on the device; ``None`` where none of its frames are held.
            state: What its sampler has to remember.
        """
        sampler = self.sampler.start(state)
        held = None if noise is None else self._holding(frames, noise, sampler)
        return sampler if held is None else held

    def _with_image(self, noise: Tensor) -> Tensor:
        """Return starting noise with as much of the first given frame as the model asks for."""
        share = self.backbone.spec.image_in_noise
        if self.start is None or not share:
            return noise
        return torch.lerp(noise, self.start.latents[:, :, :1], share)

    def _holding(
        self, frames: FrameRange, noise: Tensor, sampler: BlockSampler
    ) -> KnownFrames | None:
        """Return the sampler of a block some of whose frames are known and held in their place."""
        held = None if self.start is None else self.start.held(frames)
        if held is None:
            return None
        places, clean = held
        spec = self.backbone.spec
        clean_seen = spec.timestep == "frame" or spec.start in ("given", "marked")
        share = 0.0 if clean_seen else self.start_noise
        return KnownFrames(sampler, places, clean, noise[:, :, list(places)], share)

    def begin_at(self, version: int, clean: Tensor, noise: Tensor) -> tuple[Tensor, BlockSampler]:
        """Return clean latents at the level of a step, and the sampler of a block that begins so.

        Args:
            version: Steps that the block is taken to have behind it.
            clean: Latents as the sampler leaves finished frames, ``(1, C, F, H, W)``.
            noise: Of the same shape.
        """
        sampler = self.sampler.start_at(version)
        return sampler.noised(clean, noise), sampler

    def known(self, frames: int) -> Tensor:
        """Return the known frames that blocks of the schedule are copies of, on the device."""
        if self.clip is None:
            raise ValueError("the schedule begins with known frames, but none are given")
        return self.clip[:, :, :frames].to(self.device)

    def noise_of(self, block: int, step: int, frames: int) -> Tensor | None:
        """Return the noise of a sampler step on the device; ``None``: it needs none."""
        if not self.sampler.stochastic or self.step_noise is None:
            return None
        return self.step_noise.draw(block, step, frames).to(self.device)

    def mixing_noise(self, index: int, frames: FrameRange) -> Tensor:
        """Return the noise that a task mixes into finished frames that it sees."""
        if self.step_noise is None:
            raise ValueError("frames that are seen with noise need step_noise")
        return self.step_noise.mixed(index, frames.start, len(frames)).to(self.device)


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A task has run.

    Args:
        task: Which one.
    """

    task: Task


@dataclass(frozen=True, slots=True)
class BlockDone:
    """A block is finished. Blocks finish in the order of time.

    Args:
        block: Index of the block.
        frames: Its latent frames.
        latents: ``(1, C, F, H, W)`` fp32 on the rank's device.
    """

    block: int
    frames: FrameRange
    latents: Tensor


@dataclass(frozen=True, slots=True)
class ActionDone:
    """This rank has done an action of its plan: for timelines and measures of idle time.

    Args:
        action: Which one.
        start: When it began, in seconds of ``time.perf_counter``.
        stop: When it ended; on a GPU, when its work was queued.
        reused: Whether it was the computing of layers, and those behind the first were reused.
    """

    action: Action
    start: float
    stop: float
    reused: bool = False


Progress: TypeAlias = TaskDone | BlockDone | ActionDone
