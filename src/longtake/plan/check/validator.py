"""Validator of plans: all ranks' actions together are a run, nothing before its inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, final

from longtake.plan.check.replay import Link, replay
from longtake.plan.check.symbolic_decoder import DecoderShare
from longtake.plan.check.symbolic_rank import RankShare
from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import COLLECTED, Action, Message, Post, Receive, Send
from longtake.plan.ir.text import describe, describe_message, format_action
from longtake.plan.layout import Layout

_AROUND: Final = 2
"""Actions that are shown before and after a fault."""
_SHOWN_RANKS: Final = 3
"""Ranks that are shown when none can go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a valid plan amounts to.

    Args:
        actions: Number of actions of all ranks.
        messages: Number of messages.
        outstanding: The most messages that were sent and not yet received on one link.
    """

    actions: int
    messages: int
    outstanding: int


def validate(
    streams: Sequence[Iterable[Action]], layout: Layout, limit: int | None = None
) -> Summary:
    """Play all ranks' actions of a whole run, without tensors, and refuse what cannot be.

    Every action has its inputs, at the version that it states; every message that is sent is
    posted and received, once, in order and with the same frames; nothing is computed, kept or sent
    in vain; no ranks wait for each other.

    Args:
        streams: Each rank's actions, rank 0 first; they must end.
        layout: Which rank holds and runs what.
        limit: The most messages that may be sent and not yet received on one link; any number
            where it is ``None``.

    Raises:
        PlanError: Names the rank, the action and what is wrong.
    """
    if len(streams) != layout.size:
        raise PlanError(
            f"the plan has actions of {len(streams)} ranks, but its layout has {layout.size}."
        )
    plan = _Plan(streams)
    shares = [
        RankShare(layout, rank) if rank < layout.mesh.size else DecoderShare(layout, rank)
        for rank in range(layout.size)
    ]
    mail = _Mail(limit)
    with plan.marking_waits():
        for rank, action in replay(plan.streams):
            with plan.marking(rank, action):
                mail.check(rank, action)
                shares[rank].do(action)
    mail.close()
    for share in shares:
        share.close()
    return Summary(actions=sum(plan.done), messages=mail.messages, outstanding=mail.most)


@final
class _Plan:
    """The ranks' actions, and how many of them have been done: to show where a fault is."""

    def __init__(self, streams: Sequence[Iterable[Action]]) -> None:
        self.streams = [list(stream) for stream in streams]
        self.done = [0] * len(streams)

    @contextmanager
    def marking(self, rank: int, action: Action) -> Iterator[None]:
        """Say which action cannot be done, and show it among its neighbors."""
        try:
            yield
        except PlanError as error:
            raise PlanError(
                f"rank {rank} cannot {describe(action)}: {error}{self._shown([rank])}"
            ) from None
        self.done[rank] += 1

    @contextmanager
    def marking_waits(self) -> Iterator[None]:
        """Show where ranks stand when none can go on, or when messages do not match."""
        try:
            yield
        except PlanError as error:
            if "\n" in str(error):  # shown already
                raise
            ranks = range(len(self.streams))
            standing = [rank for rank in ranks if self.done[rank] < len(self.streams[rank])]
            raise PlanError(f"{error}{self._shown(standing[:_SHOWN_RANKS])}") from None

    def _shown(self, ranks: Sequence[int]) -> str:
        """Return the next action of some ranks with those before and after it."""
        lines = []
        for rank in ranks:
            at = self.done[rank]
            for index in range(
                max(0, at - _AROUND), min(at + _AROUND + 1, len(self.streams[rank]))
            ):
                mark = "  <-- here" if index == at else ""
                lines.append(f"\n    {rank}: {format_action(self.streams[rank][index])}{mark}")
        return "".join(lines)


@final
class _Mail:
    """Posts before receives, and how many messages are on their way."""

    def __init__(self, limit: int | None) -> None:
        self.messages = 0
        self.most = 0
        self._limit = limit
        self._posted: dict[Link, deque[Message]] = {}
        self._outstanding: dict[Link, int] = {}

    def check(self, rank: int, action: Action) -> None:
        match action:
            case Post(message=message, source=source):
                link = Link(source, rank, message.kind)
                self._posted.setdefault(link, deque()).append(message)
            case Receive(message=message, source=source):
                link = Link(source, rank, message.kind)
                self._match(message, self._posted.get(link))
                self._outstanding[link] -= 1
            case Send(message=message, target=target) if message.kind not in COLLECTED:
                self._count(Link(rank, target, message.kind))
            case _:
                pass

    def close(self) -> None:
        for link, posted in self._posted.items():
            if posted:
                raise PlanError(
                    f"rank {link.target} posts the {describe_message(posted[0])} from rank "
                    f"{link.source}, but never receives it."
                )

    def _match(self, message: Message, posted: deque[Message] | None) -> None:
        if not posted:
            raise PlanError("it has not been posted.")
        if (first := posted.popleft()) != message:
            raise PlanError(
                f"the {describe_message(first)} with {first.frames} frames was posted first; "
                f"messages are received in the order of their posts, as they were posted."
            )

    def _count(self, link: Link) -> None:
        count = self._outstanding[link] = self._outstanding.get(link, 0) + 1
        self.messages += 1
        self.most = max(self.most, count)
        if self._limit is not None and count > self._limit:
            raise PlanError(
                f"{count} messages would be on their way to rank {link.target}; the most is "
                f"{self._limit}."
            )
