"""Finite numbers: which layer of which task has made the first one that is none."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, NoReturn, final

import torch
from torch import Tensor

from longtake.comm.device_queue import Reached, mark
from longtake.errors import NumbersError
from longtake.task import Task

_ADVICE: Final = (
    "the weights, a LoRA's scale or model.guidance_scale may be too large for model.dtype: try "
    "float32, or smaller scales"
)


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass of a task through this rank's layers.

    Args:
        task: Which one.
        first: The first of the layers; -1: what embeds stands before them.
        sums: Of the hidden states after each, on the host once ``ready`` says so.
        ready: ``None``: they are there already.
    """

    task: Task
    first: int
    sums: Tensor
    ready: Reached | None


@final
class FiniteWatch:
    """Looks at the sums of hidden states: one read of them per layer, and no wait for the device.

    A sum is not finite if a number in it is not. On a GPU the sums come to the host behind the
    work that is queued, so a task is found out while a later one is being queued.

    Args:
        rank: This one.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._passes: deque[_Pass] = deque()
        self._sums: list[Tensor] = []

    def add(self, hidden: Tensor) -> None:
        """Take note of hidden states ``(B, S, M)``."""
        self._sums.append(hidden.sum(dtype=torch.float32))

    def end(self, task: Task, first: int) -> None:
        """End a pass, and look at all that have come to the host.

        Args:
            task: Which has passed.
            first: The first layer that sums were noted of; -1 for what stands before layer 0.

        Raises:
            NumbersError: Numbers of a pass are not finite; names rank, block, step and layer.
        """
        if self._sums and self._sums[0].device.type != "meta":
            self._passes.append(self._pass(task, first, torch.stack(self._sums)))
        self._sums = []
        while self._passes and _is_here(self._passes[0]):
            self._look(self._passes.popleft())

    def _pass(self, task: Task, first: int, sums: Tensor) -> _Pass:
        if sums.device.type == "cpu":
            return _Pass(task, first, sums, None)
        host = torch.empty(sums.shape, dtype=sums.dtype, pin_memory=True)
        host.copy_(sums, non_blocking=True)
        return _Pass(task, first, host, mark(sums.device))

    def _look(self, one: _Pass) -> None:
        for layer, total in enumerate(one.sums.tolist(), start=one.first):
            if not math.isfinite(total):
                place = "the embedding" if layer < 0 else f"layer {layer}"
                refuse(self._rank, one.task, f"comes out of {place}")


def refuse(rank: int, task: Task, where: str) -> NoReturn:
    """Refuse to go on.

    Args:
        rank: This one.
        task: That has been at work.
        where: Which numbers are not finite, as the end of a sentence.

    Raises:
        NumbersError: Always.
    """
    raise NumbersError(
        f"rank {rank}, block {task.block}, step {task.step}: a number that is not finite (NaN or "
        f"infinite) {where}, so the video would be black from there on; {_ADVICE}."
    )


def check_step(rank: int, task: Task, latents: Tensor, *, last: bool) -> None:
    """Refuse latents that are not finite after a sampler step.

    On a GPU only after a block's last step, where its time is waited for anyway.

    Args:
        rank: This one.
        task: That the step has ended.
        latents: Of the block, ``(1, C, F, H, W)``.
        last: Whether the block is finished.

    Raises:
        NumbersError: Names rank, block and step.
    """
    if latents.device.type == "meta" or (latents.device.type == "cuda" and not last):
        return
    if not math.isfinite(float(latents.sum(dtype=torch.float32))):
        refuse(rank, task, "stands in the latents, after all layers made finite ones")


def _is_here(one: _Pass) -> bool:
    return one.ready is None or one.ready()
