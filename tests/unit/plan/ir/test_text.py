"""Plans as text: every action reads back as it was, and a wrong line is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from longtake.caches import SameStepKV, forwards
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
    Open,
    Post,
    Receive,
    Send,
)
from longtake.plan.ir.text import describe, format_action, format_plan, parse_action, parse_plan
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.schedulers import FifoQueue
from longtake.strategies.dual_paral import ring_schedule
from longtake.task import FrameRange, Video

HOP = Message(kind=Kind.HOP, index=17, block=3, step=4, branches=range(2), frames=16)
HEAD = EntrySpan(FrameRange(40, 48), 15)
COMPUTE = Compute(
    index=17,
    block=3,
    step=4,
    branches=range(2),
    layers=range(4),
    frames=16,
    own=8,
    reads=(HEAD,),
    keeps=(FrameRange(24, 28), FrameRange(30, 32)),
    drops=(HEAD, EntrySpan(FrameRange(-3, 24), 9)),
)
ACTIONS: list[tuple[Action, str, str]] = [
    (
        Open(
            index=17,
            block=3,
            step=4,
            frames=((FrameRange(16, 24), 5), (FrameRange(24, 40), 4)),
            forwarded=24,
        ),
        "open b3s4#17 24 frames 16:24@5 24:40@4",
        "open block 3, step 4",
    ),
    (
        Open(
            index=0,
            block=0,
            step=0,
            frames=((FrameRange(-2, 8), 0), (FrameRange(-5, -4), 4)),
            forwarded=10,
            enters=((-1, FrameRange(-2, 0), 0), (0, FrameRange(0, 8), 0)),
        ),
        "open b0s0#0 10 frames -2:8@0 -5:-4@4 enters b-1@0 -2:0 b0@0 0:8",
        "open block 0, step 0",
    ),
    (
        Post(message=HOP, source=1),
        "post hop b3s4#17 0:2 16 frames from 1",
        "post hop of block 3, step 4, branches 0:2 from rank 1",
    ),
    (
        Receive(
            message=Message(
                kind=Kind.GUIDED, index=17, block=3, step=4, branches=range(2), frames=8
            ),
            source=7,
        ),
        "receive guided b3s4#17 0:2 8 frames from 7",
        "receive guided of block 3, step 4 from rank 7",
    ),
    (
        COMPUTE,
        "compute b3s4#17 branches 0:2 layers 0:4 frames 16 own 8 reads 40:48#15 "
        "keeps 24:28 30:32 drops 40:48#15 -3:24#9",
        "compute block 3, step 4, branches 0:2",
    ),
    (
        Compute(
            index=0,
            block=0,
            step=0,
            branches=range(1, 2),
            layers=range(4, 30),
            frames=8,
            own=0,
            keeps=(FrameRange(0, 8),),
        ),
        "compute b0s0#0 branches 1:2 layers 4:30 frames 8 own 0 keeps 0:8",
        "compute block 0, step 0, branches 1:2",
    ),
    (
        Combine(index=17, block=3, step=4, frames=8),
        "combine b3s4#17 8 frames",
        "combine block 3, step 4",
    ),
    (
        Send(message=HOP, target=2),
        "send hop b3s4#17 0:2 16 frames to 2",
        "send hop of block 3, step 4, branches 0:2 to rank 2",
    ),
    (Fuse(index=17, block=3, step=4, frames=5), "fuse b3s4#17 5 frames", "fuse block 3, step 4"),
    (
        Advance(index=17, block=3, step=4, frames=8),
        "advance b3s4#17 8 frames",
        "advance block 3, step 4",
    ),
    (Emit(index=17, block=3, step=4, frames=1), "emit b3s4#17 1 frames", "emit block 3"),
    (
        Decode(index=17, block=3, step=4, frames=1, first=2),
        "decode b3s4#17 1 frames from 2",
        "decode block 3",
    ),
    (Finish(index=17, block=3, step=4), "finish b3s4#17", "finish the video after block 3"),
    (
        Collect(message=replace(HOP, kind=Kind.FRAMES), source=2),
        "collect frames b3s4#17 0:2 16 frames from 2",
        "collect frames of block 3, step 4 from rank 2",
    ),
    (
        Decide(index=17, block=3, step=4, branches=range(1, 2)),
        "decide b3s4#17 branches 1:2",
        "decide block 3, step 4, branches 1:2",
    ),
    (
        Attend(index=17, block=3, step=4, branches=range(2), layers=range(8)),
        "attend b3s4#17 branches 0:2 layers 0:8",
        "attend block 3, step 4, branches 0:2",
    ),
]


@pytest.mark.parametrize(("action", "line", "words"), ACTIONS, ids=[row[1] for row in ACTIONS])
def test_an_action_is_a_line_and_back(action: Action, line: str, words: str) -> None:
    assert format_action(action) == line
    assert parse_action(line) == action
    assert describe(action) == words


def test_a_whole_plan_reads_back() -> None:
    layout = Layout(
        mesh=Mesh(cfg=2, pipe=2),
        stages=(range(3), range(3, 5)),
        batches=(range(1), range(1, 2)),
    )
    walk = list(forwards(FifoQueue(4, 2).tasks(Video(21, 3)), SameStepKV()))
    plan = {rank: list(ring_schedule(walk, layout, rank)) for rank in range(4)}
    lines = list(format_plan(plan))
    assert parse_plan(lines) == plan
    assert parse_plan(["", *sorted(lines, key=lambda line: line[0]), "\n"]) == plan


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "'' is no action: expected one of open, post, receive, compute"),
        ("wait b3s4#17", "expected one of open, post"),
        ("send hop b3s4#17 0:2 16 frames", "expected `send KIND bBsS#N BRANCHES F frames to RANK`"),
        ("send tail b3s4#17 0:2 16 frames to 1", "expected `send KIND"),
        (
            "combine b3 8 frames",
            "'combine b3 8 frames' is no action: expected `combine bBsS#N F frames`",
        ),
        (
            "open b3s4#17 16 frames 40:24@4",
            "frames 40..24 do not run forward; expected",
        ),
    ],
)
def test_a_line_that_is_no_action_is_named(line: str, expected: str) -> None:
    with pytest.raises(PlanError) as error:
        parse_action(line)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("emit b0 8 frames", "line 2, 'emit b0 8 frames', names no rank: expected `RANK: ACTION`"),
        ("0: emit b0", "line 2: ' emit b0' is no action: expected `emit bBsS#N F frames`"),
    ],
)
def test_a_plan_names_the_number_of_a_wrong_line(line: str, expected: str) -> None:
    with pytest.raises(PlanError) as error:
        parse_plan(["0: combine b0s0#0 8 frames", line])
    assert expected in str(error.value)
