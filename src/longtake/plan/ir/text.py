"""Text form of actions: one readable line each, which reads back as the same action.

    open b3s4#17 16 frames 16:24@5 24:40@4
    open b4s0#18 32 frames 24:40@5 40:56@0 enters b4@0 40:56
    post hop b3s4#17 0:2 16 frames from 1
    receive hop b3s4#17 0:2 16 frames from 1
    compute b3s4#17 branches 0:2 layers 0:4 frames 16 own 8 reads 40:48#15 keeps 24:32
    send prediction b3s4#17 1:2 8 frames to 3
    combine b3s4#17 8 frames
    fuse b3s4#17 8 frames
    advance b3s4#17 8 frames
    emit b3s4#17 8 frames
    decode b3s4#17 8 frames from 0
    finish b3s4#17
    collect frames b3s4#17 0:2 8 frames from 2
    decide b3s4#17 branches 0:2
    attend b3s4#17 branches 0:2 layers 0:4

``b3s4`` is block 3 at step 4, ``#17`` the number of that task in serial order, ``16:24@5`` latent
frames 16 to 23 with 5 steps behind them, ``40:48#15`` the keys and values of latent frames 40 to 47
that task 15 has made; behind ``branches`` and ``layers``, ``0:2`` is 0 and 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import (
    Action,
    Advance,
    Attend,
    Collect,
    Combine,
    Compute,
    Decide,
    Decode,
    Emit,
    EntrySpan,
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
from longtake.task import FrameRange


def format_action(action: Action) -> str:
    """Return an action as one line, which :func:`parse_action` reads."""
    match action:
        case Open():
            frames = "".join(f" {span}@{steps}" for span, steps in action.frames)
            enters = "".join(f" b{block}@{at} {span}" for block, span, at in action.enters)
            return f"open {_task(action)} {action.forwarded} frames{frames}" + (
                f" enters{enters}" if enters else ""
            )
        case Post() | Receive() | Collect():
            return f"{_verb(action)} {_message(action.message)} from {action.source}"
        case Send():
            return f"send {_message(action.message)} to {action.target}"
        case Compute():
            return (
                f"compute {_task(action)} branches {_span(action.branches)} "
                f"layers {_span(action.layers)} frames {action.frames} own {action.own}"
                f"{_listed('reads', map(_entries, action.reads))}"
                f"{_listed('keeps', action.keeps)}"
                f"{_listed('drops', map(_entries, action.drops))}"
            )
        case Combine() | Fuse() | Advance() | Emit():
            return f"{_verb(action)} {_task(action)} {action.frames} frames"
        case Decode():
            return f"decode {_task(action)} {action.frames} frames from {action.first}"
        case Finish():
            return f"finish {_task(action)}"
        case Decide():
            return f"decide {_task(action)} branches {_span(action.branches)}"
        case Attend():
            return (
                f"attend {_task(action)} branches {_span(action.branches)} "
                f"layers {_span(action.layers)}"
            )


def parse_action(line: str) -> Action:
    """Return the action of a line.

    Raises:
        PlanError: The line is no action; says what was expected.
    """
    words = line.split()
    verb = words[0] if words else ""
    if verb not in _GRAMMAR:
        raise PlanError(f"{line!r} is no action: expected one of {', '.join(_GRAMMAR)} first.")
    expected, pattern, build = _GRAMMAR[verb]
    found = pattern.fullmatch(" ".join(words))
    if found is None:
        raise PlanError(f"{line!r} is no action: expected `{expected}`.")
    try:
        return build(found)
    except ValueError as error:
        raise PlanError(f"{line!r} is no action: {error}; expected `{expected}`.") from error


def format_plan(plan: Mapping[int, Iterable[Action]]) -> Iterator[str]:
    """Yield a plan's lines, rank after rank: ``1: compute b3s4 ...``. For plans that end."""
    for rank, actions in plan.items():
        for action in actions:
            yield f"{rank}: {format_action(action)}"


def parse_plan(lines: Iterable[str]) -> dict[int, list[Action]]:
    """Return each rank's actions; the lines of several ranks may be mixed, empty ones are skipped.

    Raises:
        PlanError: A line is no action of a rank; names it by its number.
    """
    plan: dict[int, list[Action]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        rank, colon, action = line.partition(":")
        if not colon or not rank.strip().isdecimal():
            raise PlanError(f"line {number}, {line!r}, names no rank: expected `RANK: ACTION`.")
        try:
            plan.setdefault(int(rank), []).append(parse_action(action))
        except PlanError as error:
            raise PlanError(f"line {number}: {error}") from error
    return plan


def describe(action: Action) -> str:
    """Return an action in a few words, for messages."""
    match action:
        case Post() | Receive() | Collect():
            return f"{_verb(action)} {describe_message(action.message)} from rank {action.source}"
        case Send():
            return f"send {describe_message(action.message)} to rank {action.target}"
        case Compute() | Decide() | Attend():
            return f"{_verb(action)} {_place(action)}, branches {_span(action.branches)}"
        case Emit() | Decode():
            return f"{_verb(action)} block {action.block}"
        case Finish():
            return f"finish the video after block {action.block}"
        case Open() | Combine() | Fuse() | Advance():
            return f"{_verb(action)} {_place(action)}"


def describe_message(message: Message) -> str:
    """Return a message in a few words: ``hop of block 3, step 4, branches 0:2``."""
    branches = f", branches {_span(message.branches)}"
    parts = message.kind in (Kind.HOP, Kind.PREDICTION, Kind.HEADS)
    return f"{message.kind} of {_place(message)}{branches if parts else ''}"


def _verb(action: Action) -> str:
    return type(action).__name__.lower()


def _place(item: OfTask) -> str:
    return f"block {item.block}, step {item.step}"


def _task(item: OfTask) -> str:
    return f"b{item.block}s{item.step}#{item.index}"


def _span(span: range) -> str:
    return f"{span.start}:{span.stop}"


def _message(message: Message) -> str:
    return f"{message.kind} {_task(message)} {_span(message.branches)} {message.frames} frames"


def _entries(span: EntrySpan) -> str:
    return f"{span.frames}#{span.index}"


def _listed(word: str, items: Iterable[object]) -> str:
    text = "".join(f" {item}" for item in items)
    return f" {word}{text}" if text else ""


def _parse_span(text: str) -> range:
    start, stop = text.split(":")
    return range(int(start), int(stop))


def _parse_frames(text: str) -> FrameRange:
    start, stop = text.split(":")
    return FrameRange(int(start), int(stop))


def _parse_entries(text: str | None) -> tuple[EntrySpan, ...]:
    found = re.findall(r"(-?\d+:-?\d+)#(\d+)", text or "")
    return tuple(EntrySpan(_parse_frames(frames), int(index)) for frames, index in found)


def _of_task(found: re.Match[str]) -> dict[str, Any]:
    return {name: int(found[name]) for name in ("index", "block", "step")}


def _parse_message(found: re.Match[str]) -> Message:
    return Message(
        kind=Kind(found["kind"]),
        branches=_parse_span(found["branches"]),
        frames=int(found["frames"]),
        **_of_task(found),
    )


def _parse_open(found: re.Match[str]) -> Open:
    frames = re.findall(rf"({_FRAMES})@(\d+)", found["frames"])
    enters = re.findall(rf"b(-?\d+)@(\d+) ({_FRAMES})", found["enters"] or "")
    return Open(
        frames=tuple((_parse_frames(span), int(steps)) for span, steps in frames),
        forwarded=int(found["count"]),
        enters=tuple((int(block), _parse_frames(span), int(at)) for block, at, span in enters),
        **_of_task(found),
    )


def _parse_compute(found: re.Match[str]) -> Compute:
    return Compute(
        branches=_parse_span(found["branches"]),
        layers=_parse_span(found["layers"]),
        frames=int(found["frames"]),
        own=int(found["own"]),
        reads=_parse_entries(found["reads"]),
        keeps=tuple(_parse_frames(span) for span in (found["keeps"] or "").split()),
        drops=_parse_entries(found["drops"]),
        **_of_task(found),
    )


def _parse_decode(found: re.Match[str]) -> Decode:
    return Decode(frames=int(found["frames"]), first=int(found["first"]), **_of_task(found))


def _parse_attend(found: re.Match[str]) -> Attend:
    return Attend(
        branches=_parse_span(found["branches"]),
        layers=_parse_span(found["layers"]),
        **_of_task(found),
    )


def _of_message(
    verb: str, word: str, build: Callable[[Message, int], Action]
) -> tuple[str, re.Pattern[str], Callable[[re.Match[str]], Action]]:
    """Return the grammar of an action that is about a message and another rank."""
    return (
        f"{verb} KIND bBsS#N BRANCHES F frames {word} RANK",
        re.compile(rf"{verb} {_MESSAGE} {word} (?P<rank>\d+)"),
        lambda found: build(_parse_message(found), int(found["rank"])),
    )


def _of_frames(
    verb: str, build: Callable[..., Action]
) -> tuple[str, re.Pattern[str], Callable[[re.Match[str]], Action]]:
    """Return the grammar of an action that is about a task's latent frames."""
    return (
        f"{verb} bBsS#N F frames",
        re.compile(rf"{verb} {_TASK} (?P<frames>\d+) frames"),
        lambda found: build(frames=int(found["frames"]), **_of_task(found)),
    )


_TASK = r"b(?P<block>-?\d+)s(?P<step>\d+)#(?P<index>\d+)"
_SPAN = r"\d+:\d+"
_FRAMES = r"-?\d+:-?\d+"
_MESSAGE = rf"(?P<kind>{'|'.join(Kind)}) {_TASK} (?P<branches>{_SPAN}) (?P<frames>\d+) frames"
_COMPUTE = (
    rf"compute {_TASK} branches (?P<branches>{_SPAN}) layers (?P<layers>{_SPAN}) "
    r"frames (?P<frames>\d+) own (?P<own>\d+)"
    rf"(?: reads(?P<reads>(?: {_FRAMES}#\d+)+))?(?: keeps(?P<keeps>(?: {_FRAMES})+))?"
    rf"(?: drops(?P<drops>(?: {_FRAMES}#\d+)+))?"
)
_OPEN = (
    rf"open {_TASK} (?P<count>\d+) frames(?P<frames>(?: {_FRAMES}@\d+)+)"
    rf"(?: enters(?P<enters>(?: b-?\d+@\d+ {_FRAMES})+))?"
)

# Verb -> what a line looks like in words, as a pattern, and what it makes.
_GRAMMAR: dict[str, tuple[str, re.Pattern[str], Callable[[re.Match[str]], Action]]] = {
    "open": (
        "open bBsS#N F frames START:STOP@STEPS ... enters bB@STEPS START:STOP ...",
        re.compile(_OPEN),
        _parse_open,
    ),
    "post": _of_message("post", "from", lambda message, rank: Post(message=message, source=rank)),
    "receive": _of_message(
        "receive", "from", lambda message, rank: Receive(message=message, source=rank)
    ),
    "compute": (
        "compute bBsS#N branches A:B layers A:B frames F own F reads START:STOP#N ... keeps "
        "START:STOP ... drops START:STOP#N ...",
        re.compile(_COMPUTE),
        _parse_compute,
    ),
    "combine": _of_frames("combine", Combine),
    "send": _of_message("send", "to", lambda message, rank: Send(message=message, target=rank)),
    "fuse": _of_frames("fuse", Fuse),
    "advance": _of_frames("advance", Advance),
    "emit": _of_frames("emit", Emit),
    "decode": (
        "decode bBsS#N F frames from F",
        re.compile(rf"decode {_TASK} (?P<frames>\d+) frames from (?P<first>\d+)"),
        _parse_decode,
    ),
    "finish": (
        "finish bBsS#N",
        re.compile(rf"finish {_TASK}"),
        lambda found: Finish(**_of_task(found)),
    ),
    "collect": _of_message(
        "collect", "from", lambda message, rank: Collect(message=message, source=rank)
    ),
    "decide": (
        "decide bBsS#N branches A:B",
        re.compile(rf"decide {_TASK} branches (?P<branches>{_SPAN})"),
        lambda found: Decide(branches=_parse_span(found["branches"]), **_of_task(found)),
    ),
    "attend": (
        "attend bBsS#N branches A:B layers A:B",
        re.compile(rf"attend {_TASK} branches (?P<branches>{_SPAN}) layers (?P<layers>{_SPAN})"),
        _parse_attend,
    ),
}
