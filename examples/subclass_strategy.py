"""A strategy of your own: guidance branches one after another, for half the activation memory.

In YAML: ``trainer.strategy: {class_path: subclass_strategy.BranchByBranch}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from typing_extensions import override

import longtake.strategies as ls
from longtake.errors import ConfigurationError


@final
class BranchByBranch(ls.ParallelStrategy):
    """Run the tasks on one device, a task's guidance branches one after another."""

    @override
    def layout(self, world_size: int, workload: ls.Workload) -> ls.Layout:
        if world_size != 1:
            raise ConfigurationError(f"BranchByBranch runs on 1 device, not on {world_size}.")
        rows = range(workload.branches)
        batches = tuple(rows[row : row + 1] for row in rows)
        return ls.Layout(mesh=ls.Mesh(), stages=(range(workload.spec.layers),), batches=batches)

    @override
    def run(self, work: ls.Denoising, layout: ls.Layout, rank: int) -> Iterator[ls.Progress]:
        queue, layers = ls.BlockQueue(work), layout.layers(rank)
        branches = [ls.TaskForward(work, batch) for batch in layout.batches]
        for task in work.tasks:
            window, predictions = work.cache.window(task), []
            latents = queue.latents(task, window)
            for branch in branches:
                hidden = branch.layers(task, window, branch.embed(task, window, latents), layers)
                predictions.append(branch.predict(task, window, hidden))
            finished = queue.advance(task, work.combine(task, torch.cat(predictions)))
            yield ls.TaskDone(task)
            if finished is not None:
                yield ls.BlockDone(task.block, task.frames, finished)
