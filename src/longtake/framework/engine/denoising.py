"""Denoising work: a request as strategies see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from longtake.framework.engine.request import Request
from longtake.framework.engine.workloads import Workloads
from longtake.models import AnyBackbone, ConditioningFrames
from longtake.noise import DrawnStepNoise, NoiseSource
from longtake.strategies import Communicator, Denoising
from longtake.task import FrameRange


def denoising(
    workloads: Workloads,
    request: Request,
    backbone: AnyBackbone,
    text: Callable[[FrameRange, range], Any],
    communicator: Communicator,
    start: ConditioningFrames | None = None,
) -> Denoising:
    """Return the denoising of a request.

    Args:
        workloads: The run's.
        request: What to make.
        backbone: With this rank's layers.
        text: Gives what the backbone made of the prompt of some latent frames.
        communicator: The ranks of the run.
        start: What is known of the video before it is made.
    """
    model, generation_config = workloads.model, workloads.model.generation_config
    _, height, width = workloads.picture(request)
    return Denoising(
        backbone=backbone,
        tasks=workloads.tasks(request),
        noise=noise_of(workloads, request),
        cache=generation_config.cache,
        sampler=workloads.sampler(request),
        guidance=model.guidance,
        text=text,
        height=height,
        width=width,
        device=model.place.device,
        attention=model.attention,
        reuse=model.reuse,
        dtype=model.place.dtype,
        communicator=communicator,
        start=None if workloads.copies_known_frames else start,
        clip=start.latents if start is not None and workloads.copies_known_frames else None,
        step_noise=DrawnStepNoise(_source(workloads, request)),
        start_noise=generation_config.start_noise,
        kept=generation_config.cache_format,
    )


def noise_of(workloads: Workloads, request: Request) -> Iterator[Tensor]:
    """Return the starting noise of a request's blocks.

    Args:
        workloads: The run's.
        request: What to make.
    """
    generation_config = workloads.model.generation_config
    blocks = generation_config.scheduler.blocks(workloads.latent_frames(request))
    return generation_config.noise.blocks(_source(workloads, request), blocks)


def _source(workloads: Workloads, request: Request) -> NoiseSource:
    channels, height, width = workloads.picture(request)
    return NoiseSource(
        seed=request.seed,
        channels=channels,
        height=height,
        width=width,
        after=0 if request.growth is None else request.growth.frames,
    )
