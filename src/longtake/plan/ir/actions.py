"""Actions of ranks, as data: compute, send, receive, sampler step, emit, decode.

A strategy makes them from a request's tasks (:mod:`longtake.plan.ir.schedule`), those of decoding
are put in (:mod:`longtake.plan.ir.run`); they are printed and read back
(:mod:`longtake.plan.ir.text`), validated, simulated, executed and drawn. What only a run can
decide, how many heads are given away, is an action with a *decided operand*: made by one rank,
carried by a message to the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Final, TypeAlias

from longtake.caches import Entry
from longtake.task import FrameRange, spans


class Kind(StrEnum):
    """What a message carries."""

    LATENTS = "latents"
    """A window's latents ``(1, C, F, H, W)`` fp32, to the first stage of another cfg coordinate."""
    HOP = "hop"
    """Hidden states ``(branches, S, M)``, from one stage to the next."""
    PREDICTION = "prediction"
    """Some branches' prediction of the task's own frames ``(branches, C, F, H, W)``."""
    GUIDED = "guided"
    """The prediction after guidance ``(1, C, F, H, W)`` fp32, back to the output rank."""
    BLOCK = "block"
    """A finished block's latents ``(1, C, F, H, W)`` fp32, to the rank that decodes it."""
    FRAMES = "frames"
    """A block's video frames, in parts that say how large they are, as they are decoded."""
    REST = "rest"
    """The video frames that a VAE has held back until the video's end, alike."""
    HEADS = "heads"
    """How many heads are given away in a micro-batch: the decided operand of ``Decide``."""


CHANNELS: Final[dict[str, bool]] = {
    kind: kind in (Kind.BLOCK, Kind.FRAMES, Kind.HEADS) for kind in Kind if kind is not Kind.REST
}
"""Kinds that have a channel of their own, each with whether it goes from and to host memory,
whatever the ranks' device. ``REST`` follows the ``FRAMES`` on theirs."""
COLLECTED: Final = frozenset((Kind.FRAMES, Kind.REST))
"""What is taken whenever it comes: see ``Collect``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfTask:
    """What belongs to a task.

    Args:
        index: The task's number in serial order: what programs go by.
        block: Its block, and
        step: its step: what people read.
    """

    index: int
    block: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(OfTask):
    """What travels between two ranks: named by what it is, its shape known from the plan.

    Args:
        kind: What it carries.
        branches: Guidance branches in it; all of them where it has no rows for branches. For
            ``HEADS``, those of the output rank's micro-batch.
        frames: Latent frames ``F`` in it.
    """

    kind: Kind
    branches: range
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Open(OfTask):
    """Put a window's latents together from the queue, as they stand now (output rank).

    Args:
        frames: Latent frames of the window, and of what comes in as a copy of others: consecutive
            ones, each with the steps that they must have behind them.
        enters: Blocks that come in: each with its frames, and the steps that it is taken to have
            behind it.
        forwarded: How many latent frames the window has.
    """

    frames: tuple[tuple[FrameRange, int], ...]
    forwarded: int
    enters: tuple[tuple[int, FrameRange, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """Begin to receive a message; never waits.

    Args:
        message: Which one.
        source: The rank that sends it.
    """

    message: Message
    source: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Receive:
    """Wait until a message is here.

    Args:
        message: Which one.
        source: The rank that sends it.
    """

    message: Message
    source: int


@dataclass(frozen=True, slots=True)
class EntrySpan:
    """Entries of consecutive latent frames that one task has made.

    Args:
        frames: Whose they are.
        index: The task.
    """

    frames: FrameRange
    index: int

    @property
    def entries(self) -> Iterator[Entry]:
        """The entries one by one."""
        return (Entry(frame, self.index) for frame in self.frames.each)


def entry_spans(entries: Iterable[Entry]) -> tuple[EntrySpan, ...]:
    """Return entries as spans, in their order."""
    found: list[EntrySpan] = []
    for index, group in groupby(entries, lambda entry: entry.index):
        found += [EntrySpan(span, index) for span in spans(entry.frame for entry in group)]
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute(OfTask):
    """Run the rank's layers for one batch of branches of a task: a micro-batch on one stage.

    The first stage embeds before, the last one predicts after.

    Args:
        branches: Guidance branches of the batch.
        layers: The rank's layers.
        frames: Latent frames that pass through the layers.
        own: Latent frames that are predicted; 0 where the task leaves keys and values only.
        reads: Entries of the rank's feature store that attention sees.
        keeps: Latent frames whose entries are left there.
        drops: Entries that go from there, after attention has seen them.
    """

    branches: range
    layers: range
    frames: int
    own: int
    reads: tuple[EntrySpan, ...] = ()
    keeps: tuple[FrameRange, ...] = ()
    drops: tuple[EntrySpan, ...] = ()

    @property
    def context(self) -> int:
        """Latent frames whose keys and values come from the store, beside ``frames``."""
        return sum(len(span.frames) for span in self.reads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Combine(OfTask):
    """Join all branches' predictions of a task (last stage of cfg coordinate 0).

    Args:
        frames: Latent frames that are predicted.
    """

    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Begin to send a message; never waits.

    Args:
        message: Which one.
        target: The rank that receives it.
    """

    message: Message
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuse(OfTask):
    """Add a window's weighted prediction to those of its block's step (output rank).

    Args:
        frames: Latent frames of the prediction.
    """

    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance(OfTask):
    """Take a block's sampler step (output rank); a task may take several, or none.

    Args:
        frames: Latent frames of the block.
    """

    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Emit(OfTask):
    """Hand over the block that a task has finished (output rank).

    It is decoded there, or sent to a decode rank.

    Args:
        frames: Its latent frames.
    """

    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode(OfTask):
    """Decode latent frames of a block: on a decode rank, or on the output rank between tasks.

    Args:
        frames: How many of its latent frames.
        first: How many of them have been decoded before.
    """

    frames: int
    first: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish(OfTask):
    """Decode what a VAE has held back: the video has ended with the block of this task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect:
    """Take a message whenever it comes, and before the video's end; never waits.

    The output rank takes decoded frames so: they hold up nothing that is behind them.

    Args:
        message: Which one.
        source: The rank that sends it.
    """

    message: Message
    source: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide(OfTask):
    """Decide how many heads of every rank are given away in a micro-batch (output rank).

    Args:
        branches: Guidance branches of the output rank's batch.
    """

    branches: range


@dataclass(frozen=True, slots=True, kw_only=True)
class Attend(OfTask):
    """Attend the heads that the ranks of the mesh give away in a micro-batch (decode rank).

    Operands and results travel within the action, as the exchange among ranks that share tokens
    travels within ``Compute``.

    Args:
        branches: Guidance branches of the output rank's batch.
        layers: Layers that attend.
    """

    branches: range
    layers: range


Action: TypeAlias = (
    Open
    | Post
    | Receive
    | Compute
    | Combine
    | Send
    | Fuse
    | Advance
    | Emit
    | Decode
    | Finish
    | Collect
    | Decide
    | Attend
)
