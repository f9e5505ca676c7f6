"""Symbolic decoder: blocks, and what decode ranks hold, played without tensors."""

from __future__ import annotations

from typing import final

from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import (
    Action,
    Attend,
    Decode,
    Finish,
    Kind,
    Message,
    OfTask,
    Post,
    Receive,
    Send,
)
from longtake.plan.layout import Layout


@final
class DecodedBlocks:
    """Which latent frames of which blocks have been decoded: in the order of time, each once.

    Args:
        rank: The rank that decodes.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._blocks: dict[int, int] = {}
        self._done: dict[int, int] = {}
        self._next = 0
        self.last: OfTask | None = None
        self.finished = False

    def take(self, task: OfTask, frames: int) -> None:
        """Take a block that is to be decoded."""
        self._blocks[task.block] = frames
        self.last = task

    def decode(self, action: Decode) -> None:
        """Decode some latent frames of the next block.

        Raises:
            PlanError: They are not the next ones, or are not here.
        """
        if action.block != self._next:
            raise PlanError(f"block {self._next} is the next: a VAE looks back.")
        frames, done = self._blocks.get(action.block, 0), self._done.get(action.block, 0)
        if not frames or action.first != done or done + action.frames > frames:
            raise PlanError(
                f"the block is not here, or has another number of frames: {done} of {frames} are "
                f"decoded."
            )
        self._done[action.block] = done + action.frames
        if done + action.frames == frames:
            del self._blocks[action.block], self._done[action.block]
            self._next += 1

    def finish(self, action: Finish) -> None:
        """Decode what has been held back.

        Raises:
            PlanError: There are blocks to decode, or there have been none, or it is done.
        """
        if self._blocks or self.last is None or self.last.index != action.index or self.finished:
            raise PlanError("it comes once, when the video's last block is decoded.")
        self.finished = True

    def close(self) -> None:
        """End the run.

        Raises:
            PlanError: A block has not been decoded, or what was held back has not.
        """
        for block in self._blocks:
            raise PlanError(f"rank {self._rank} never decodes block {block}.")
        if self.last is not None and not self.finished:
            raise PlanError(f"rank {self._rank} never finishes the video.")


@final
class DecoderShare:
    """A decode rank's blocks, and the heads that it is asked to attend.

    Args:
        layout: Which rank holds and runs what.
        rank: This rank.
    """

    def __init__(self, layout: Layout, rank: int) -> None:
        self._rank = rank
        self._output = layout.output_rank
        self._layers = layout.stages[0]
        self._blocks = DecodedBlocks(rank)
        self._owed: dict[Kind, OfTask] = {}
        self._asked: Message | None = None

    def do(self, action: Action) -> None:
        """Receive a block or heads, decode or attend, send frames.

        Raises:
            PlanError: It is not the next block, it is not here, or decode ranks do no such thing.
        """
        match action:
            case Post():
                pass
            case Receive(message=message) if message.kind is Kind.BLOCK:
                self._blocks.take(message, message.frames)
            case Receive(message=message) if message.kind is Kind.HEADS:
                self._asked = message
            case Attend():
                self._attend(action)
            case Decode():
                self._blocks.decode(action)
                self._owed[Kind.FRAMES] = action
            case Finish():
                self._blocks.finish(action)
                self._owed[Kind.REST] = action
            case Send(message=message, target=target):
                owed = self._owed.pop(message.kind, None)
                if owed is None or owed.index != message.index or target != self._output:
                    raise PlanError("nothing of that kind has been decoded, or it goes elsewhere.")
            case _:
                raise PlanError("a decode rank receives blocks and decodes them.")

    def close(self) -> None:
        """End the run.

        Raises:
            PlanError: A block has not been decoded.
        """
        self._blocks.close()

    def _attend(self, action: Attend) -> None:
        asked, self._asked = self._asked, None
        if asked is None or (asked.index, asked.branches) != (action.index, action.branches):
            raise PlanError("how many heads has not been received.")
        if action.layers != self._layers:
            raise PlanError(
                f"it attends in layers {action.layers.start}:{action.layers.stop}, but the mesh "
                f"has {self._layers.start}:{self._layers.stop}."
            )
