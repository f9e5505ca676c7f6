"""Guided blocks: the branches' predictions joined block by block, and what is kept in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from longtake.guidance import GuidanceState, GuidedStep
from longtake.strategies.runtime.denoising import Denoising
from longtake.task import Frames, Run, Task

_Part: TypeAlias = tuple[int, Frames]
"""A block, and its frames that are denoised together: all, or those of a window."""


@final
class GuidedBlocks:
    """Applies a request's guidance on the rank that joins branches.

    Args:
        work: The request.
    """

    def __init__(self, work: Denoising) -> None:
        self._work = work
        self._states: dict[_Part, GuidanceState] = {}
        if work.resumed is not None:
            facts = work.resumed.facts.get("guidance", ())
            self._restore(facts, work.resumed.tensors, work.device)

    def combine(self, task: Task, predictions: Tensor) -> Tensor:
        """Join all branches' predictions of a task: ``(branches, C, F, H, W)`` to ``(1, ...)``."""
        rows = dict(zip(self._work.guidance.branches, torch.split(predictions, 1), strict=True))
        guided, first = [], 0
        for run in task.runs:
            own = slice(first, first + len(run.frames))
            first = own.stop
            guided.append(self._guided(task, run, {one: x[:, :, own] for one, x in rows.items()}))
        return guided[0] if len(guided) == 1 else torch.cat(guided, dim=2)

    def _guided(self, task: Task, run: Run, predictions: Mapping[Any, Tensor]) -> Tensor:
        work, part = self._work, (run.block, run.frames)
        expert = work.backbone.spec.expert(work.sampler.timesteps[run.step])
        at = GuidedStep(step=run.step, steps=task.steps, expert=expert)
        guided, state = work.guidance.combine(predictions, at, self._states.pop(part, {}))
        if run.last_step:
            self._states = {one: x for one, x in self._states.items() if one[0] != run.block}
        elif state:
            self._states[part] = state
        return guided

    def state(self) -> tuple[dict[str, Tensor], list[Any]]:
        """Return what is kept between two tasks: tensors by name, and whose they are."""
        tensors: dict[str, Tensor] = {}
        facts = []
        for number, ((block, frames), state) in enumerate(self._states.items()):
            tensors |= {f"guidance/{number}/{name}": tensor for name, tensor in state.items()}
            facts.append({"block": block, "frames": list(frames), "names": list(state)})
        return tensors, facts

    def _restore(self, facts: Any, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        for number, one in enumerate(facts):
            self._states[one["block"], tuple(one["frames"])] = {
                name: tensors[f"guidance/{number}/{name}"].to(device) for name in one["names"]
            }
