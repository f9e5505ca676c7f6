"""A strategy of your own: guidance branches one after another, for half the activation memory.

In YAML: ``trainer.strategy: {class_path: subclass_strategy.BranchByBranch}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import final

import torch
from torch.utils import _pytree as pytree
from typing_extensions import override

import longtake.strategies as ls
from longtake.errors import ConfigurationError
from longtake.models import BackboneSpec


@final
class BranchByBranch(ls.ParallelStrategy):
    """Run the tasks on one device, a task's guidance branches one after another."""

    @override
    def mesh(self, world_size: int, spec: BackboneSpec) -> ls.Mesh:
        if world_size != 1:
            raise ConfigurationError(f"BranchByBranch runs on 1 device, not on {world_size}.")
        return ls.Mesh()

    @override
    def layers(self, mesh: ls.Mesh, rank: int, spec: BackboneSpec) -> range:
        return range(spec.layers)

    @override
    def run(self, work: ls.Denoising, mesh: ls.Mesh, rank: int) -> Iterator[ls.Progress]:
        spec, queue = work.backbone.spec, ls.BlockQueue(work)
        branches = [ls.TaskForward(_branch(work, row)) for row in range(work.guidance.branches)]
        for task in work.tasks:
            window, predictions = work.cache.window(task), []
            latents = queue.latents(task, window)
            for forward in branches:
                hidden = forward.embed(task, window, latents)
                hidden = forward.layers(task, window, hidden, self.layers(mesh, rank, spec))
                predictions.append(forward.head(task, window, hidden))
            expert = spec.expert(work.sampler.timesteps[task.step])
            combined = work.guidance.combine(torch.cat(predictions), expert)
            finished = queue.advance(task, combined)
            yield ls.TaskDone(task)
            if finished is not None:
                yield ls.BlockDone(task.block, task.frames, finished)


def _branch(work: ls.Denoising, row: int) -> ls.Denoising:
    """Return the work as one branch sees it: its own row of the text, no guidance."""
    text = work.text
    return replace(
        work,
        guidance=ls.Guidance(scales=(1.0,)),
        text=lambda frames: pytree.tree_map(lambda t: t[row : row + 1], text(frames)),
    )
