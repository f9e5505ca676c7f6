"""A strategy of your own: guidance branches one after another, for half the activation memory.

In YAML: ``trainer.strategy: {class_path: subclass_strategy.BranchByBranch}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from typing_extensions import override

import longtake.api as lt


@final
class BranchByBranch(lt.ParallelStrategy):
    """Run the tasks on one device, a task's guidance branches one after another."""

    @override
    def layout(self, world_size: int, workload: lt.Workload) -> lt.Layout:
        if world_size != 1:
            raise lt.ConfigurationError(f"BranchByBranch runs on 1 device, not on {world_size}.")
        rows = range(workload.branches)
        batches = tuple(rows[row : row + 1] for row in rows)
        return lt.Layout(mesh=lt.Mesh(), stages=(range(workload.spec.layers),), batches=batches)

    @override
    def run(self, work: lt.Denoising, layout: lt.Layout, rank: int) -> Iterator[lt.Progress]:
        queue, layers = lt.BlockQueue(work), layout.layers(rank)
        guided = lt.GuidedBlocks(work)
        branches = [lt.TaskForward(work, batch) for batch in layout.batches]
        for forward in work.forwards:
            latents, predictions = queue.latents(forward), []
            for branch in branches:
                hidden = branch.layers(forward, branch.embed(forward, latents), layers)
                if forward.task.runs:  # otherwise it is forwarded for keys and values alone
                    predictions.append(branch.predict(forward, hidden))
            finished = []
            if predictions:
                prediction = guided.combine(forward.task, torch.cat(predictions))
                finished = list(queue.step(forward, prediction))
            yield lt.TaskDone(forward.task)
            for run, block in finished:
                yield lt.BlockDone(run.block, run.block_frames, block)
