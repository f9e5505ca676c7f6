"""The compiler: which rank does what, in which order."""

from __future__ import annotations

from itertools import islice

import pytest

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV, forwards
from longtake.plan.ir.actions import (
    Action,
    Advance,
    Compute,
    Kind,
    Message,
    Open,
    Post,
    Receive,
    Send,
)
from longtake.plan.ir.run import links
from longtake.plan.ir.text import format_action
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.schedulers import FifoQueue
from longtake.strategies.dual_paral import DualParal, ring_schedule
from longtake.task import FrameRange, Video

LAYERS = 12
TOGETHER, APART = (range(2),), (range(1), range(1, 2))


def layout_of(pipe: int, cfg: int = 1, batches: tuple[range, ...] = TOGETHER) -> Layout:
    stages = tuple(range(LAYERS * i // pipe, LAYERS * (i + 1) // pipe) for i in range(pipe))
    return Layout(mesh=Mesh(cfg=cfg, pipe=pipe), stages=stages, batches=batches)


LAYOUTS = [
    layout_of(1),
    layout_of(2),
    layout_of(5),
    layout_of(3, batches=APART),
    layout_of(1, 2, APART),
    layout_of(3, 2, APART),
]


def links_of(layout: Layout) -> list[tuple[Kind, int, int]]:
    walk = forwards(FifoQueue(3, 2).tasks(Video(20, 4)), NextBlockKV())
    return links(DualParal().actions, walk, 0, layout)


def plan_of(
    layout: Layout, blocks: int = 6, steps: int = 4, cache: FeatureCache | None = None
) -> list[list[Action]]:
    tasks = FifoQueue(3, 2).tasks(Video(3 * blocks + 2, steps))
    walk = list(forwards(tasks, cache or NextBlockKV()))
    return [list(ring_schedule(walk, layout, rank)) for rank in range(layout.mesh.size)]


def test_two_stages_in_words() -> None:
    first, second = plan_of(layout_of(2), blocks=2, steps=1)
    assert [format_action(action) for action in first] == [
        "open b0s0#0 5 frames 0:5@0 enters b0@0 0:5",
        "post guided b0s0#0 0:2 5 frames from 1",
        "compute b0s0#0 branches 0:2 layers 0:6 frames 5 own 5",
        "send hop b0s0#0 0:2 5 frames to 1",
        "receive guided b0s0#0 0:2 5 frames from 1",
        "advance b0s0#0 5 frames",
        "emit b0s0#0 5 frames",
        "open b1s0#1 5 frames 3:5@1 5:8@0 enters b1@0 5:8",
        "post guided b1s0#1 0:2 3 frames from 1",
        "compute b1s0#1 branches 0:2 layers 0:6 frames 5 own 3",
        "send hop b1s0#1 0:2 5 frames to 1",
        "receive guided b1s0#1 0:2 3 frames from 1",
        "advance b1s0#1 3 frames",
        "emit b1s0#1 3 frames",
    ]
    assert [format_action(action) for action in second] == [
        "post hop b0s0#0 0:2 5 frames from 0",
        "post hop b1s0#1 0:2 5 frames from 0",
        "receive hop b0s0#0 0:2 5 frames from 0",
        "compute b0s0#0 branches 0:2 layers 6:12 frames 5 own 5",
        "combine b0s0#0 5 frames",
        "send guided b0s0#0 0:2 5 frames to 0",
        "receive hop b1s0#1 0:2 5 frames from 0",
        "compute b1s0#1 branches 0:2 layers 6:12 frames 5 own 3",
        "combine b1s0#1 3 frames",
        "send guided b1s0#1 0:2 3 frames to 0",
    ]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_rank_computes_every_task_of_its_branches_once_in_serial_order(
    layout: Layout,
) -> None:
    tasks = [(t.block, t.step) for t in FifoQueue(3, 2).tasks(Video(20, 4))]
    for rank, actions in enumerate(plan_of(layout)):
        batches = layout.batches_at(layout.mesh.coordinate(rank)["cfg"])  # type: ignore[index]
        computed = [(a.block, a.step, a.branches) for a in actions if isinstance(a, Compute)]
        assert computed == [(*task, batch) for task in tasks for batch in batches]
        layers = {a.layers for a in actions if isinstance(a, Compute)}
        assert layers == {layout.layers(rank)}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_messages_use_the_links_that_are_opened(layout: Layout) -> None:
    used = {
        (action.message.kind, rank, action.target)
        for rank, actions in enumerate(plan_of(layout))
        for action in actions
        if isinstance(action, Send)
    }
    opened = links_of(layout)
    assert len(opened) == len(set(opened))
    assert used == set(opened)
    directions = [frozenset((source, target)) for _, source, target in opened]
    kinds = [kind for kind, _, _ in opened]
    pairs = list(zip(kinds, directions, strict=True))
    assert len(pairs) == len(set(pairs)), "a kind goes one way between two ranks"


@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=str)
def test_receives_are_posted_before_the_wait_for_the_one_before(layout: Layout) -> None:
    for rank, actions in enumerate(plan_of(layout)):
        if rank == layout.output_rank:
            continue
        for kind in Kind:
            waits = [
                a.message for a in actions if isinstance(a, Receive) and a.message.kind is kind
            ]
            posted: list[Message] = []
            done = 0
            for action in actions:
                if isinstance(action, Post) and action.message.kind is kind:
                    posted.append(action.message)
                if isinstance(action, Receive) and action.message.kind is kind:
                    done += 1
                    assert posted == waits[: done + 1], f"rank {rank}, {kind} number {done}"


@pytest.mark.parametrize("cache", [NextBlockKV(), SameStepKV(), NoCache()], ids=str)
def test_the_output_rank_takes_a_step_before_it_is_read_and_never_lags_far(
    cache: FeatureCache,
) -> None:
    layout = layout_of(2)
    frames_of: dict[int, FrameRange] = {}
    under_way: list[tuple[int, int]] = []
    most = 0
    for action in plan_of(layout, blocks=12, steps=9, cache=cache)[0]:
        if isinstance(action, Open):
            frames_of.update((block, frames) for block, frames, _ in action.enters)
            assert not any(
                frames_of[block].overlaps(frames) and step < steps
                for block, step in under_way
                for frames, steps in action.frames
            )
            under_way.append((action.block, action.step))
            most = max(most, len(under_way))
        if isinstance(action, Advance):
            assert under_way.pop(0) == (action.block, action.step)
    assert not under_way
    # With NoCache only the end of one pass over the queue and the start of the next overlap.
    assert most == (2 if isinstance(cache, NoCache) else 5)


def test_an_endless_schedule_is_compiled_as_it_goes() -> None:
    walk = forwards(FifoQueue(3, 2).tasks(Video(None, 4)), NextBlockKV())
    actions = ring_schedule(walk, layout_of(3), 1)
    computed = [a.block for a in islice(actions, 5000) if isinstance(a, Compute)]
    assert max(computed) > 300


def test_the_output_rank_alone_needs_no_message() -> None:
    (actions,) = plan_of(layout_of(1))
    assert not [a for a in actions if isinstance(a, Post | Receive | Send)]
    assert not links_of(layout_of(1))


def test_latents_go_to_the_other_branch_once_per_task() -> None:
    actions = plan_of(layout_of(3, 2, APART))[0]
    sent = [a for a in actions if isinstance(a, Send) and a.message.kind is Kind.LATENTS]
    assert len(sent) == 24
    assert {a.target for a in sent} == {3}
