"""Queue state of the output rank, without latents: which frame has how many steps behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import Advance, Emit, Fuse, Open
from longtake.task import FrameRange


@dataclass(slots=True)
class _Block:
    """A block in the queue, and the steps that it has behind it."""

    frames: FrameRange
    steps: int


@final
class QueueState:
    """Checks every read of the queue against the version that the plan states.

    A block's version is the number of sampler steps that it has behind it.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._home: dict[int, int] = {}
        """Which block a latent frame is of."""
        self._windows: dict[int, set[tuple[int, int]]] = {}
        """The blocks that a task under way reads, each at its version."""
        self._fused: set[tuple[int, int]] = set()
        self._emitted = 0
        self._steps: int | None = None

    def open(self, action: Open) -> None:
        """Take in the blocks that come with a window, and read its latents.

        Raises:
            PlanError: Latents that it reads are not there, or at another version than stated.
        """
        for block, frames, version in action.enters:
            if block in self._blocks:
                raise PlanError(f"block {block} {_stands(self._blocks[block])} already.")
            self._blocks[block] = _Block(frames, version)
            self._home.update(dict.fromkeys(frames.each, block))
        if action.index in self._windows:
            raise PlanError("its window has been opened already.")
        read = self._windows[action.index] = set()
        for frames, version in action.frames:
            for frame in frames.each:
                home = self._home.get(frame)
                stood = None if home is None else self._blocks[home]
                if home is None or stood is None or stood.steps != version:
                    where = "it" if home is None else f"its block {home}"
                    raise PlanError(
                        f"it sees latent frame {frame} with {version} steps behind it, but {where} "
                        f"{_stands(stood)}."
                    )
                read.add((home, version))

    def fuse(self, action: Fuse) -> None:
        """Add a window's prediction to those of its block's step.

        Raises:
            PlanError: The task has no window of that block at that step under way.
        """
        self._check_window(action)
        self._fused.add((action.index, action.block))

    def advance(self, action: Advance) -> None:
        """Take a sampler step.

        Raises:
            PlanError: It is not the step of the block's task under way.
        """
        block = self._check_window(action)
        if len(block.frames) != action.frames:
            raise PlanError(
                f"block {action.block} has {len(block.frames)} frames, not {action.frames}."
            )
        block.steps += 1

    def was_fused(self, action: Advance) -> bool:
        """Whether the task's prediction of the block has been added before its step."""
        return (action.index, action.block) in self._fused

    def emit(self, action: Emit) -> int:
        """Hand over a block; return how many steps it has behind it.

        Raises:
            PlanError: It is not the next one, or has not all its steps behind it.
        """
        if action.block != self._emitted:
            raise PlanError(f"block {self._emitted} is the next to come out.")
        block = self._blocks.get(action.block)
        if block is None or block.steps <= action.step:
            raise PlanError(f"block {action.block} {_stands(block)}.")
        if len(block.frames) != action.frames:
            raise PlanError(
                f"block {action.block} has {len(block.frames)} frames, not {action.frames}."
            )
        # The plan does not say how many steps there are: the first block to come out does.
        self._steps = block.steps if self._steps is None else self._steps
        if block.steps != self._steps:
            raise PlanError(
                f"block {action.block} {_stands(block)}, but block 0 came out after {self._steps}."
            )
        self._emitted += 1
        return block.steps

    def close(self) -> None:
        """End the run.

        Raises:
            PlanError: A block has not come out.
        """
        for index, block in self._blocks.items():
            if index >= self._emitted:
                raise PlanError(f"block {index} never comes out: it {_stands(block)}.")

    def _check_window(self, action: Fuse | Advance) -> _Block:
        """Return the block whose step is taken, if the task has read it at that step."""
        block = self._blocks.get(action.block)
        read = self._windows.get(action.index, ())
        if block is None or block.steps != action.step or (action.block, action.step) not in read:
            raise PlanError(f"block {action.block} {_stands(block)}.")
        if 0 <= action.block < self._emitted:
            raise PlanError(f"block {action.block} was emitted before its last step.")
        return block


def _stands(block: _Block | None) -> str:
    if block is None:
        return "is not in the queue"
    return f"has {block.steps} steps behind it"
