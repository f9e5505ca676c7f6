"""Replay of all ranks' actions in one process: what the validator and simulator share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import COLLECTED, Action, Collect, Kind, Message, Receive, Send
from longtake.plan.ir.text import describe_message

_NAMED = 8
"""How many ranks an error names before it only counts."""


class Link(NamedTuple):
    """Messages of one kind from one rank to another arrive in the order they were sent.

    Args:
        source: The rank that sends.
        target: The rank that receives.
        kind: What the messages carry.
    """

    source: int
    target: int
    kind: Kind


def replay(streams: Sequence[Iterable[Action]]) -> Iterator[tuple[int, Action]]:
    """Yield (rank, action) in an order in which every message is sent before it is received.

    Each rank goes on until it waits for a message that has not been sent, and only then has the
    next one its turn, so messages pile up about as high as they can. Streams are read lazily:
    endless ones may be played as long as the caller likes. Takes constant time per action.

    Args:
        streams: Each rank's actions, rank 0 first.

    Raises:
        PlanError: Ranks wait for each other or for what nobody sends, a message is received in
            another order than it was sent in, or is never received.
    """
    sent: dict[Link, deque[Message]] = {}
    collected: dict[Link, deque[Collect]] = {}
    waiting: dict[Link, Receive] = {}
    rests = [iter(stream) for stream in streams]
    due: list[Receive | None] = [None] * len(rests)
    ready = deque(range(len(rests)))
    while ready:
        rank = ready.popleft()
        receive, due[rank] = due[rank], None
        for action in rests[rank] if receive is None else chain((receive,), rests[rank]):
            if isinstance(action, Receive):
                link = Link(action.source, rank, action.message.kind)
                queue = sent.setdefault(link, deque())
                if not queue:
                    waiting[link] = action
                    break
                _deliver(action, queue.popleft(), link)
            yield rank, action
            if isinstance(action, Collect):
                link = Link(action.source, rank, action.message.kind)
                collected.setdefault(link, deque()).append(action)
                _match(link, sent, collected)
            elif isinstance(action, Send):
                link = Link(rank, action.target, action.message.kind)
                sent.setdefault(link, deque()).append(action.message)
                if action.message.kind in COLLECTED:
                    _match(link, sent, collected)
                elif link in waiting:
                    # Its rank takes it, and goes on, when this one waits or has ended.
                    due[link.target] = waiting.pop(link)
                    ready.append(link.target)
    if waiting:
        raise PlanError(_deadlock(waiting))
    for link, due_there in collected.items():
        if due_there:
            raise PlanError(
                f"rank {link.target} collects the {describe_message(due_there[0].message)} from "
                f"rank {link.source}, which never sends it."
            )
    for link, queue in sent.items():
        if queue:
            raise PlanError(
                f"rank {link.source} sends rank {link.target} the {describe_message(queue[0])}, "
                f"which rank {link.target} never receives."
            )


def _match(
    link: Link, sent: dict[Link, deque[Message]], collected: dict[Link, deque[Collect]]
) -> None:
    """Deliver what has been sent and is to be collected on a link, in order."""
    messages, collects = sent.setdefault(link, deque()), collected.setdefault(link, deque())
    while messages and collects:
        _deliver(collects.popleft(), messages.popleft(), link)


def _deliver(action: Receive | Collect, message: Message, link: Link) -> None:
    if message == action.message:
        return
    wanted = describe_message(action.message)
    if describe_message(message) == wanted:
        raise PlanError(
            f"the {wanted} has {message.frames} frames where rank {link.source} sends it and "
            f"{action.message.frames} where rank {link.target} receives it."
        )
    raise PlanError(
        f"rank {link.source} sends rank {link.target} the {describe_message(message)} where rank "
        f"{link.target} receives the {wanted}: the order on a link is the same on both sides."
    )


def _deadlock(waiting: dict[Link, Receive]) -> str:
    stuck = {link.target for link in waiting}
    waits = []
    for link, receive in sorted(waiting.items(), key=lambda item: item[0].target)[:_NAMED]:
        wait = f"rank {link.target} waits for the {describe_message(receive.message)}"
        ended = "" if link.source in stuck else ", whose actions end without sending it"
        waits.append(f"{wait} from rank {link.source}{ended}")
    more = f"; and {len(waiting) - _NAMED} more wait" if len(waiting) > _NAMED else ""
    return f"no rank can go on: {'; '.join(waits)}{more}."
