"""What one rank holds while its actions are played without tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

from longtake.caches import FeatureKey
from longtake.plan.check.queue_state import QueueState
from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import (
    Action,
    Advance,
    Combine,
    Compute,
    Decode,
    Emit,
    Kind,
    Message,
    Open,
    Post,
    Receive,
    Send,
)
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.ir.text import describe_message
from longtake.plan.layout import Layout


class _Value(NamedTuple):
    """Names a value that an action makes or a message brings; each is used up once."""

    kind: Kind
    block: int
    step: int
    branches: range

    def __str__(self) -> str:
        message = Message(
            kind=self.kind, block=self.block, step=self.step, branches=self.branches, frames=0
        )
        return describe_message(message)


@dataclass(slots=True)
class _Window:
    """A window on a first stage: who has yet to take it."""

    frames: int
    batches: list[range]
    targets: list[int] = field(default_factory=list)


@final
class RankShare:
    """One rank's windows, values and feature store, with the frames of each.

    Args:
        layout: Which rank holds and runs what.
        rank: This rank.
    """

    def __init__(self, layout: Layout, rank: int) -> None:
        self._rank = rank
        self._role = RankRole.of(layout, rank)
        self._all_batches = layout.batches
        self._decoders = range(layout.mesh.size, layout.size)
        self._per_block = layout.decoders if layout.tiled else min(1, layout.decoders)
        self._to_decode: dict[_Value, set[int]] = {}
        self._windows: dict[tuple[int, int], _Window] = {}
        self._values: dict[_Value, int] = {}
        self._store: set[tuple[FeatureKey, range]] = set()
        self._queue_state = QueueState()

    def do(self, action: Action) -> None:
        """Do an action: use up its inputs and hold its results.

        Raises:
            PlanError: An input is not there or another than stated, or it is another rank's.
        """
        match action:
            case Post():
                pass
            case Receive():
                self._receive(action.message)
            case Send():
                self._send(action)
            case Compute():
                self._compute(action)
            case Combine():
                self._combine(action)
            case Open() | Advance() | Emit():
                self._lead(action)
            case Decode():
                raise PlanError("this rank denoises: the decode ranks decode, or nobody apart.")

    def close(self) -> None:
        """End the run.

        Raises:
            PlanError: Something has been made, received or kept that nothing used.
        """
        rank = f"rank {self._rank}"
        for (block, step), window in self._windows.items():
            rest = " and ".join(f"branches {b.start}:{b.stop}" for b in window.batches)
            rest = rest or f"rank {window.targets[0]}"
            raise PlanError(
                f"{rank} never uses the window of block {block}, step {step} for {rest}."
            )
        for value in self._values:
            raise PlanError(f"{rank} never uses the {value}.")
        for key, branches in self._store:
            raise PlanError(
                f"{rank} keeps {_entry(key)} for branches {branches.start}:{branches.stop}, but "
                f"never reads it."
            )
        self._queue_state.close()

    def _lead(self, action: Open | Advance | Emit) -> None:
        if self._rank != self._role.output:
            raise PlanError(f"only rank {self._role.output} holds the queue.")
        match action:
            case Open():
                self._queue_state.open(action)
                self._windows[action.block, action.step] = _Window(
                    len(action.frames), list(self._role.batches), list(self._role.other_firsts)
                )
            case Advance():
                guided = _Value(Kind.GUIDED, action.block, action.step, self._role.branches)
                self._use(guided, action.frames)
                self._queue_state.advance(action)
            case Emit():
                steps = self._queue_state.emit(action)
                if self._decoders:
                    block = _Value(Kind.BLOCK, action.block, steps - 1, self._role.branches)
                    self._make(block, action.frames)
                    self._to_decode[block] = set()

    def _receive(self, message: Message) -> None:
        if message.kind is Kind.LATENTS:
            self._windows[message.block, message.step] = _Window(
                message.frames, list(self._role.batches)
            )
        else:
            self._make(_value(message.kind, message), message.frames)

    def _send(self, action: Send) -> None:
        message, target = action.message, action.target
        if message.kind is Kind.LATENTS:
            window = self._window(message, message.frames)
            if target not in window.targets:
                raise PlanError("it has it already, or it is no first stage of other branches.")
            window.targets.remove(target)
            self._drop_if_done(message, window)
            return
        targets: dict[Kind, Sequence[int | None]] = {
            Kind.HOP: [self._role.after],
            Kind.PREDICTION: [self._role.combine],
            Kind.GUIDED: [self._role.output],
            Kind.BLOCK: self._decoders,
        }
        expected = targets[message.kind]
        if target not in expected:
            ranks = [str(rank) for rank in expected if rank is not None]
            goes = f"to rank {' or '.join(ranks)}" if ranks else "nowhere"
            raise PlanError(f"it goes {goes} from here.")
        value = _value(message.kind, message)
        self._use(value, message.frames)
        if message.kind is Kind.BLOCK:
            sent = self._to_decode.pop(value)
            if target in sent:
                raise PlanError("it has it already.")
            if len(sent) + 1 < self._per_block:  # further ranks decode it too
                self._make(value, message.frames)
                self._to_decode[value] = sent | {target}

    def _compute(self, action: Compute) -> None:
        if action.layers != self._role.layers:
            raise PlanError(
                f"it runs layers {action.layers.start}:{action.layers.stop}, but the rank holds "
                f"{self._role.layers.start}:{self._role.layers.stop}."
            )
        if not self._role.is_first:
            self._use(_value(Kind.HOP, action), action.frames)
        else:
            window = self._window(action, action.frames)
            if action.branches not in window.batches:
                raise PlanError("it has run already, or its branches are no batch of this rank.")
            window.batches.remove(action.branches)
            self._drop_if_done(action, window)
        self._features(action)
        if not self._role.is_last:
            self._make(_value(Kind.HOP, action), action.frames)
        elif self._role.predicts:
            self._make(_value(Kind.PREDICTION, action), action.own)

    def _features(self, action: Compute) -> None:
        for key in action.reads:
            if (key, action.branches) not in self._store:
                raise PlanError(f"{_entry(key)} is not in the store: never kept, or read already.")
            self._store.remove((key, action.branches))
        for key in action.keeps:
            if (key.block, key.step) != (action.block, action.step):
                raise PlanError(f"it cannot keep {_entry(key)}: that is another task's.")
            if (key, action.branches) in self._store:
                raise PlanError(f"{_entry(key)} is kept already.")
            self._store.add((key, action.branches))

    def _combine(self, action: Combine) -> None:
        for branches in self._all_batches:
            self._use(_Value(Kind.PREDICTION, action.block, action.step, branches), action.frames)
        self._make(
            _Value(Kind.GUIDED, action.block, action.step, self._role.branches), action.frames
        )

    def _window(self, task: Compute | Message, frames: int) -> _Window:
        window = self._windows.get((task.block, task.step))
        if window is None:
            raise PlanError("its window is not here: not opened or received, or used up.")
        if window.frames != frames:
            raise PlanError(f"it has {frames} frames, but its window has {window.frames}.")
        return window

    def _drop_if_done(self, task: Compute | Message, window: _Window) -> None:
        if not window.batches and not window.targets:
            del self._windows[task.block, task.step]

    def _make(self, value: _Value, frames: int) -> None:
        if value in self._values:
            raise PlanError(f"the {value} is here already.")
        self._values[value] = frames

    def _use(self, value: _Value, frames: int) -> None:
        held = self._values.pop(value, None)
        if held is None:
            raise PlanError(f"the {value} is not here: not made or received, or used up.")
        if held != frames:
            raise PlanError(f"it has {frames} frames, but the {value} has {held}.")


@final
class DecoderShare:
    """A decode rank's blocks, with the frames of each.

    Args:
        rank: This rank.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._received: dict[int, int] = {}
        self._decoded = 0

    def do(self, action: Action) -> None:
        """Receive a block or decode it.

        Raises:
            PlanError: It is not the next block, it is not here, or decode ranks do no such thing.
        """
        match action:
            case Post():
                pass
            case Receive(message=message) if message.kind is Kind.BLOCK:
                self._received[message.block] = message.frames
            case Decode():
                if action.block != self._decoded:
                    raise PlanError(f"block {self._decoded} is the next: a VAE looks back.")
                if self._received.pop(action.block, None) != action.frames:
                    raise PlanError("the block is not here, or has another number of frames.")
                self._decoded += 1
            case _:
                raise PlanError("a decode rank receives blocks and decodes them.")

    def close(self) -> None:
        """End the run.

        Raises:
            PlanError: A block has not been decoded.
        """
        for block in self._received:
            raise PlanError(f"rank {self._rank} never decodes block {block}.")


def _value(kind: Kind, of: Compute | Message) -> _Value:
    return _Value(kind, of.block, of.step, of.branches)


def _entry(key: FeatureKey) -> str:
    return f"the {key.part} of block {key.block}, step {key.step}"
