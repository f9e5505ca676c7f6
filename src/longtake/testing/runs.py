"""Runs of a whole video on one device, and the same run by a model's own forward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from longtake.models import Sampler
from longtake.models.samplers.base import BlockSampler
from longtake.strategies import BlockDone, Denoising, Layout, SingleDevice
from longtake.testing.tiny.base import TinyCase, tiny_denoising


def serial_video(work: Denoising) -> Tensor:
    """Return the whole video's latents, ``(1, C, F, H, W)``, made on one device."""
    layout = Layout.serial(work.backbone.spec.layers, len(work.guidance.branches))
    events = SingleDevice().run(work, layout, 0)
    return torch.cat([done.latents for done in events if isinstance(done, BlockDone)], dim=2)


def video_of_windows(
    case: TinyCase, sampler: Sampler, forward: Callable[[Tensor, float], Tensor]
) -> Tensor:
    """Return the video of a queue without a cache, every task a model's own forward of its window.

    Args:
        case: A queue whose windows reach 2 latent frames to both sides.
        sampler: Makes the steps.
        forward: Predicts from a window's latents and a timestep.

    Returns:
        ``(1, C, F, H, W)``.
    """
    latents = list(tiny_denoising(case).noise)
    states: dict[int, BlockSampler] = {}
    for task in case.workload.tasks():
        b = task.block
        state = states.setdefault(b, sampler.start())
        before = latents[b - 1][:, :, -2:] if b else latents[b][:, :, :0]
        after = latents[b + 1][:, :, :2] if b + 1 in states else latents[b][:, :, :0]
        window = torch.cat([before, latents[b], after], dim=2)
        predicted = forward(window, sampler.timesteps[task.step])
        own = slice(before.shape[2], before.shape[2] + len(task.own))
        latents[b] = state.step(predicted[:, :, own], latents[b])
    return torch.cat(latents, dim=2)
