"""Queue state of the output rank, without latents: which block has how many steps behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import Advance, Emit, Open


@dataclass(slots=True)
class _Block:
    """A block in the queue: its steps behind it, and whether a task of it is under way."""

    steps: int = 0
    is_open: bool = False
    frames: int | None = None


@final
class QueueState:
    """Checks every read of the queue against the version that the plan states.

    A block's version is the number of sampler steps that it has behind it; it is born when its
    first window is opened.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._emitted = 0
        self._steps: int | None = None

    def open(self, action: Open) -> None:
        """Read the latents of a window.

        Raises:
            PlanError: A block that it sees is not there or at another version than stated.
        """
        if action.step == 0 and action.block not in self._blocks:
            self._blocks[action.block] = _Block()
        own = self._blocks.get(action.block)
        if own is None or own.is_open or own.steps != action.step:
            raise PlanError(f"block {action.block} {_stands(own)}.")
        for index, steps in action.sees:
            block = self._blocks.get(index)
            if block is None or block.steps != steps:
                raise PlanError(
                    f"it sees block {index} with {steps} steps behind it, but that block "
                    f"{_stands(block)}."
                )
        own.is_open = True

    def advance(self, action: Advance) -> None:
        """Take a sampler step.

        Raises:
            PlanError: It is not the step of the block's task under way.
        """
        block = self._blocks.get(action.block)
        if block is None or not block.is_open or block.steps != action.step:
            raise PlanError(f"block {action.block} {_stands(block)}.")
        if action.block < self._emitted:
            raise PlanError(f"block {action.block} was emitted before its last step.")
        if block.frames not in (None, action.frames):
            raise PlanError(f"block {action.block} has {block.frames} frames, not {action.frames}.")
        block.steps, block.is_open, block.frames = block.steps + 1, False, action.frames

    def emit(self, action: Emit) -> int:
        """Hand over a block; return how many steps it has behind it.

        Raises:
            PlanError: It is not the next one, or has not all its steps behind it.
        """
        if action.block != self._emitted:
            raise PlanError(f"block {self._emitted} is the next to come out.")
        block = self._blocks.get(action.block)
        if block is None or block.is_open or not block.steps:
            raise PlanError(f"block {action.block} {_stands(block)}.")
        if block.frames != action.frames:
            raise PlanError(f"block {action.block} has {block.frames} frames, not {action.frames}.")
        # The plan does not say how many steps there are: the first block to come out does.
        self._steps = block.steps if self._steps is None else self._steps
        if block.steps != self._steps:
            raise PlanError(
                f"block {action.block} {_stands(block)}, but block 0 came out after {self._steps}."
            )
        self._emitted += 1
        # The next block may see the last frames of this one, of the one before nobody does.
        self._blocks.pop(action.block - 1, None)
        return block.steps

    def close(self) -> None:
        """End the run.

        Raises:
            PlanError: A block has not come out.
        """
        for index, block in self._blocks.items():
            if index >= self._emitted:
                raise PlanError(f"block {index} never comes out: it {_stands(block)}.")


def _stands(block: _Block | None) -> str:
    if block is None:
        return "is not in the queue"
    under_way = f" and its step {block.steps} under way" if block.is_open else ""
    return f"has {block.steps} steps behind it{under_way}"
