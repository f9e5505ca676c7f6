"""Stochastic samplers on one device, against the loop written out."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from longtake.caches import NoCache
from longtake.noise import DrawnStepNoise, NoiseSource
from longtake.schedulers import FullSequence
from longtake.strategies import BlockDone, SingleDevice
from longtake.testing.tiny.base import (
    CHANNELS,
    HEIGHT,
    WIDTH,
    TinyCase,
    tiny_denoising,
    tiny_prompts,
    tiny_scheduler,
    tiny_wan_transformer,
)

SAMPLER = "FlowMatchEulerDiscreteScheduler-stochastic"
SOURCE = NoiseSource(seed=0, channels=CHANNELS, height=HEIGHT, width=WIDTH)


@torch.no_grad()
def test_a_stochastic_run_is_the_loop_written_out() -> None:
    """The transformer's own forward, guidance, and the scheduler with a generator per step."""
    case = TinyCase(
        scheduler=FullSequence(), latent_frames=4, steps=4, cache=NoCache(), sampler=SAMPLER
    )
    work = tiny_denoising(case)
    events = SingleDevice().run(work, SingleDevice().layout(1, case.workload), 0)
    (found,) = [event.latents for event in events if isinstance(event, BlockDone)]
    scheduler, transformer = tiny_scheduler(SAMPLER), tiny_wan_transformer()
    prompts, latents = tiny_prompts(2, 1)["states"], next(tiny_denoising(case).noise)
    scheduler.set_timesteps(case.steps)
    for step, timestep in enumerate(scheduler.timesteps):
        both = transformer(latents.expand(2, -1, -1, -1, -1), timestep.expand(2), prompts)[0]
        guided = both[1:] + 5.0 * (both[:1] - both[1:])
        own = SOURCE.generator("step", 0, step)
        (latents,) = scheduler.step(guided, timestep, latents, generator=own, return_dict=False)
    assert (found - latents).abs().max() <= 1e-5 * latents.abs().max()


def test_step_noise_is_a_function_of_seed_block_and_version() -> None:
    noise = DrawnStepNoise(SOURCE)
    first = noise.draw(2, 3, 5)
    assert first.shape == (1, CHANNELS, 5, HEIGHT, WIDTH)
    assert first.dtype == torch.float32
    noise.draw(0, 0, 5)
    assert torch.equal(first, noise.draw(2, 3, 5)), "the order of draws does not matter"
    others = [noise.draw(3, 2, 5), noise.draw(2, 4, 5), noise.draw(1, 3, 5)]
    others.append(DrawnStepNoise(dataclasses.replace(SOURCE, seed=1)).draw(2, 3, 5))
    assert not any(torch.equal(first, other) for other in others)


def test_a_stochastic_sampler_without_noise_is_refused() -> None:
    work = tiny_denoising(TinyCase(sampler=SAMPLER))
    with pytest.raises(ValueError, match="needs step_noise"):
        dataclasses.replace(work, step_noise=None)
