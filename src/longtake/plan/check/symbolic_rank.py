"""Symbolic rank: what one rank holds while its actions are played without tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import final

from longtake.caches import Entry
from longtake.plan.check.queue_state import QueueState
from longtake.plan.check.symbolic_decoder import DecodedBlocks
from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import (
    Action,
    Advance,
    Collect,
    Combine,
    Compute,
    Decide,
    Decode,
    Emit,
    Finish,
    Fuse,
    Kind,
    Message,
    OfTask,
    Open,
    Post,
    Receive,
    Send,
)
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.ir.text import describe_message
from longtake.plan.layout import Layout


@dataclass(frozen=True, slots=True)
class _Value:
    """Names a value that an action makes or a message brings; each is used up once."""

    kind: Kind
    index: int
    block: int
    step: int
    branches: range

    def __str__(self) -> str:
        return describe_message(Message(**asdict(self), frames=0))


@dataclass(slots=True)
class _Window:
    """A window on a first stage: who has yet to take it."""

    of: OfTask
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
        self._decided_on = dict(zip(self._role.batches, layout.batches_at(0), strict=True))
        self._aco = layout.aco
        self._others = [other for other in range(layout.size) if other != rank]
        self._decoders = range(layout.mesh.size, layout.size)
        self._per_block = layout.decoders if layout.tiled else min(1, layout.decoders)
        self._to_send: dict[_Value, set[int]] = {}
        self._to_collect: dict[Kind, _Value] = {}
        self._decoded = DecodedBlocks(rank)
        self._windows: dict[int, _Window] = {}
        self._values: dict[_Value, int] = {}
        self._store: set[tuple[Entry, range]] = set()
        self._guided: dict[int, int] = {}
        """Frames of each task's prediction that no step has used yet."""
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
            case Open() | Fuse() | Advance() | Emit() | Decide():
                self._lead(action)
            case Collect():
                self._collect(action.message)
            case Decode() | Finish() if self._decoders or self._rank != self._role.output:
                raise PlanError("the decode ranks decode, or the output rank.")
            case Decode():
                self._decoded.decode(action)
            case Finish():
                self._decoded.finish(action)
            case _:
                raise PlanError("decode ranks attend heads of others.")

    def close(self) -> None:
        """End the run.

        Raises:
            PlanError: Something has been made, received or kept that nothing used.
        """
        rank = f"rank {self._rank}"
        for window in self._windows.values():
            rest = " and ".join(f"branches {b.start}:{b.stop}" for b in window.batches)
            rest = rest or f"rank {window.targets[0]}"
            raise PlanError(
                f"{rank} never uses the window of block {window.of.block}, step "
                f"{window.of.step} for {rest}."
            )
        for value in self._values:
            raise PlanError(f"{rank} never uses the {value}.")
        for index, frames in self._guided.items():
            raise PlanError(f"{rank} never uses {frames} frames of the prediction of task {index}.")
        for kind, value in self._to_collect.items():
            raise PlanError(f"{rank} never collects the {kind} after block {value.block}.")
        self._queue_state.close()
        self._decoded.close()

    def _lead(self, action: Open | Fuse | Advance | Emit | Decide) -> None:
        if self._rank != self._role.output:
            raise PlanError(f"only rank {self._role.output} holds the queue.")
        match action:
            case Open():
                self._queue_state.open(action)
                self._windows[action.index] = _Window(
                    action,
                    action.forwarded,
                    list(self._role.batches),
                    list(self._role.other_firsts),
                )
            case Fuse():
                self._use_guided(action)
                self._queue_state.fuse(action)
            case Advance():
                if not self._queue_state.was_fused(action):
                    self._use_guided(action)
                self._queue_state.advance(action)
            case Emit():
                self._queue_state.emit(action)
                if self._decoders:
                    self._to_send_to_others(self._of_all(Kind.BLOCK, action), action.frames)
                    if before := self._to_collect.get(Kind.FRAMES):
                        raise PlanError(f"the {before} have not been collected.")
                    self._to_collect[Kind.FRAMES] = self._of_all(Kind.FRAMES, action)
                    self._to_collect[Kind.REST] = self._of_all(Kind.REST, action)
                else:
                    self._decoded.take(action, action.frames)
            case Decide():
                # Whatever the operand, the same actions follow: ranks attend the other heads.
                heads = _value(Kind.HEADS, action)
                self._to_send_to_others(heads, 0)

    def _receive(self, message: Message) -> None:
        if message.kind is Kind.LATENTS:
            self._windows[message.index] = _Window(
                message, message.frames, list(self._role.batches)
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
            Kind.HEADS: self._others,
            Kind.FRAMES: [],
            Kind.REST: [],
        }
        expected = targets[message.kind]
        if target not in expected:
            ranks = [str(rank) for rank in expected if rank is not None]
            goes = f"to rank {' or '.join(ranks)}" if ranks else "nowhere"
            raise PlanError(f"it goes {goes} from here.")
        value = _value(message.kind, message)
        self._use(value, message.frames)
        if message.kind in (Kind.BLOCK, Kind.HEADS):
            self._send_to_others(value, target, message.frames)

    def _to_send_to_others(self, value: _Value, frames: int) -> None:
        self._make(value, frames)
        self._to_send[value] = set()

    def _send_to_others(self, value: _Value, target: int, frames: int) -> None:
        """Send what several ranks get: it is used up when all have it."""
        sent = self._to_send.pop(value)
        if target in sent:
            raise PlanError("it has it already.")
        of_all = self._per_block if value.kind is Kind.BLOCK else len(self._others)
        if len(sent) + 1 < of_all:
            self._make(value, frames)
            self._to_send[value] = sent | {target}
        elif value.kind is Kind.HEADS:
            self._make(value, frames)  # for the rank's own micro-batch

    def _collect(self, message: Message) -> None:
        due = self._to_collect.pop(message.kind, None)
        if due is None or due != _value(message.kind, message):
            raise PlanError("no such frames are being decoded, or they are collected already.")

    def _compute(self, action: Compute) -> None:
        if action.layers != self._role.layers:
            raise PlanError(
                f"it runs layers {action.layers.start}:{action.layers.stop}, but the rank holds "
                f"{self._role.layers.start}:{self._role.layers.stop}."
            )
        if self._aco:
            self._use_heads(action)
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
        elif self._role.predicts and action.own:
            self._make(_value(Kind.PREDICTION, action), action.own)

    def _use_heads(self, action: Compute) -> None:
        """Use up how many heads are given away: the output rank's batches are those decided on."""
        branches = self._decided_on.get(action.branches, action.branches)
        self._use(_Value(Kind.HEADS, action.index, action.block, action.step, branches), 0)

    def _features(self, action: Compute) -> None:
        for span in (*action.reads, *action.drops):
            for entry in span.entries:
                if (entry, action.branches) not in self._store:
                    raise PlanError(
                        f"{_entry(entry)} are not in the store: never kept, or dropped already."
                    )
        for span in action.drops:
            for entry in span.entries:
                self._store.discard((entry, action.branches))
        for frames in action.keeps:
            for frame in frames.each:
                entry = Entry(frame, action.index)
                if (entry, action.branches) in self._store:
                    raise PlanError(f"{_entry(entry)} are kept already.")
                self._store.add((entry, action.branches))

    def _use_guided(self, action: Fuse | Advance) -> None:
        """Use a run's part of its task's prediction."""
        if action.index not in self._guided:
            made = next((v for v in self._values if _is_guided(v, action.index)), None)
            if made is None:
                raise PlanError(
                    "the guided prediction is not here: not made or received, or used up."
                )
            self._guided[action.index] = self._values.pop(made)
        left = self._guided.pop(action.index) - action.frames
        if left < 0:
            raise PlanError(
                f"it has {action.frames} frames, but {left + action.frames} are left of the guided "
                f"prediction."
            )
        if left:
            self._guided[action.index] = left

    def _combine(self, action: Combine) -> None:
        for branches in self._all_batches:
            prediction = replace(self._of_all(Kind.PREDICTION, action), branches=branches)
            self._use(prediction, action.frames)
        self._make(self._of_all(Kind.GUIDED, action), action.frames)

    def _of_all(self, kind: Kind, task: OfTask) -> _Value:
        return _Value(kind, task.index, task.block, task.step, self._role.branches)

    def _window(self, task: Compute | Message, frames: int) -> _Window:
        window = self._windows.get(task.index)
        if window is None:
            raise PlanError("its window is not here: not opened or received, or used up.")
        if window.frames != frames:
            raise PlanError(f"it has {frames} frames, but its window has {window.frames}.")
        return window

    def _drop_if_done(self, task: Compute | Message, window: _Window) -> None:
        if not window.batches and not window.targets:
            del self._windows[task.index]

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


def _value(kind: Kind, of: Compute | Decide | Message) -> _Value:
    return _Value(kind, of.index, of.block, of.step, of.branches)


def _is_guided(value: _Value, index: int) -> bool:
    return value.kind is Kind.GUIDED and value.index == index


def _entry(entry: Entry) -> str:
    return f"the keys and values of latent frame {entry.frame} that task {entry.index} made"
