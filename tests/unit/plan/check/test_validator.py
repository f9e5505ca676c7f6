"""The validator: every plan of the compiler is valid, and no broken one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from longtake.caches import FeatureCache, NextBlockKV, NoCache, SameStepKV, forwards
from longtake.plan.check.validator import validate
from longtake.plan.errors import PlanError
from longtake.plan.ir.actions import Action
from longtake.plan.ir.run import actions_of
from longtake.plan.ir.text import format_action, parse_action
from longtake.plan.layout import Layout
from longtake.plan.mesh import Mesh
from longtake.plan.search.splits import balance, stages_of
from longtake.schedulers import BlockScheduler, FifoQueue, FullSequence
from longtake.strategies import DualParal
from longtake.task import Video

TOGETHER, APART = (range(2),), (range(1), range(1, 2))
LAYERS = 8


def layout_of(cfg: int, pipe: int, batches: tuple[range, ...]) -> Layout:
    stages = stages_of(balance(LAYERS, pipe, 1.0, 0.0, 0.0))
    return Layout(mesh=Mesh(cfg=cfg, pipe=pipe), stages=stages, batches=batches)


def plan_of(
    layout: Layout,
    cache: FeatureCache,
    scheduler: BlockScheduler,
    latent_frames: int,
    steps: int,
) -> list[list[Action]]:
    walk = list(forwards(scheduler.tasks(Video(latent_frames, steps)), cache))
    schedule = DualParal().actions
    return [list(actions_of(schedule, walk, 0, layout, rank)) for rank in range(layout.size)]


LAYOUTS = [
    layout_of(1, 1, TOGETHER),
    layout_of(1, 1, APART),
    layout_of(1, 1, (range(1),)),
    layout_of(1, 2, TOGETHER),
    layout_of(1, 3, APART),
    layout_of(1, 8, TOGETHER),
    layout_of(1, 8, APART),
    layout_of(1, 5, (range(1),)),
    layout_of(2, 1, APART),
    layout_of(2, 2, APART),
    layout_of(2, 4, APART),
    layout_of(2, 3, (range(1), range(1, 2), range(2, 3), range(3, 4))),
    replace(layout_of(1, 3, APART), mesh=Mesh(pipe=3, ulysses=2)),
    replace(layout_of(2, 2, APART), mesh=Mesh(cfg=2, pipe=2, ring=2, ulysses=2)),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: f"{one.mesh.degrees}-{one.batches}")
def test_what_the_compiler_makes_is_valid(layout: Layout) -> None:
    caches: list[FeatureCache] = [NoCache(), NextBlockKV(), SameStepKV()]
    # Few and many blocks, and last blocks of 1 to 4 frames, some shorter than the context.
    for cache, stride, frames in product(caches, (1, 2, 3), (3, 6, 7, 10, 23, 44)):
        plan = plan_of(layout, cache, FifoQueue(4, 2, stride), frames, 4)
        summary = validate(plan, layout)
        assert summary.actions == sum(len(actions) for actions in plan)
        assert summary.outstanding <= 2 * layout.mesh.pipe + len(layout.batches)
    validate(plan_of(layout, NoCache(), FullSequence(), 5, 3), layout)


def test_a_summary_counts() -> None:
    layout = layout_of(1, 2, TOGETHER)
    summary = validate(plan_of(layout, NextBlockKV(), FifoQueue(4, 2), 6, 3), layout, limit=1)
    # Each of 3 tasks: a hop and a result, posted, sent and received.
    assert (summary.messages, summary.outstanding) == (6, 1)
    assert summary.actions == 3 * (2 * 3 + len(["open", "compute", "compute", "combine"]) + 1) + (
        1 + 6 + 1
    )


Lines = list[list[str]]


def drop(rank: int, start: str) -> Callable[[Lines], None]:
    """Leave out the first line of a rank that starts so."""

    def edit(plan: Lines) -> None:
        plan[rank].pop(_find(plan, rank, start))

    return edit


def repeat(rank: int, start: str) -> Callable[[Lines], None]:
    def edit(plan: Lines) -> None:
        index = _find(plan, rank, start)
        plan[rank].insert(index, plan[rank][index])

    return edit


def change(rank: int, start: str, old: str, new: str) -> Callable[[Lines], None]:
    """Change a word of the first line of a rank that starts so."""

    def edit(plan: Lines) -> None:
        index = _find(plan, rank, start)
        assert old in plan[rank][index]
        plan[rank][index] = plan[rank][index].replace(old, new)

    return edit


def swap(rank: int, first: str, second: str) -> Callable[[Lines], None]:
    def edit(plan: Lines) -> None:
        one, two = _find(plan, rank, first), _find(plan, rank, second)
        plan[rank][one], plan[rank][two] = plan[rank][two], plan[rank][one]

    return edit


def both(*edits: Callable[[Lines], None]) -> Callable[[Lines], None]:
    def edit(plan: Lines) -> None:
        for one in edits:
            one(plan)

    return edit


def _find(plan: Lines, rank: int, start: str) -> int:
    return next(index for index, line in enumerate(plan[rank]) if line.startswith(start))


# Three blocks of 6, 4 and 4 frames, three steps, NextBlockKV. Ranks 0 and 1 run branch 0 in two
# stages, ranks 2 and 3 branch 1.
MUTATIONS: dict[str, tuple[Callable[[Lines], None], str]] = {
    "sees a version that is not there yet": (
        change(0, "open b1s1", "4:6@2", "4:6@3"),
        "rank 0 cannot open block 1, step 1: it sees latent frame 4 with 3 steps behind it, but "
        "its block 0 has 2 steps",
    ),
    "sees a block that has not entered": (
        change(0, "open b0s0", "0:6@0", "0:6@0 6:8@0"),
        "it sees latent frame 6 with 0 steps behind it, but it is not in the queue",
    ),
    "a block comes in twice": (
        repeat(0, "open b1s0"),
        "cannot open block 1, step 0: block 1 has 0 steps behind it already",
    ),
    "a block whose step is under way": (
        repeat(0, "open b1s1"),
        "cannot open block 1, step 1: its window has been opened already",
    ),
    "a block does not come in": (
        change(0, "open b1s0", " enters b1@0 6:10", ""),
        "it sees latent frame 6 with 0 steps behind it, but it is not in the queue",
    ),
    "computes without a window": (
        drop(0, "open b0s0"),
        "its window is not here: not opened or received",
    ),
    "computes before the hop": (
        swap(1, "receive hop b0s0", "compute b0s0"),
        "rank 1 cannot compute block 0, step 0, branches 0:1: the hop of block 0, step 0, "
        "branches 0:1 is not here",
    ),
    "computes twice": (
        repeat(0, "compute b0s0"),
        "cannot compute block 0, step 0, branches 0:1: its window is not here: not opened or "
        "received, or used up",
    ),
    "computes another rank's layers": (
        change(0, "compute b0s0", "layers 0:4", "layers 0:5"),
        "it runs layers 0:5, but the rank holds 0:4",
    ),
    "computes other frames": (
        change(0, "compute b1s0", "frames 6", "frames 5"),
        "it has 5 frames, but its window has 6",
    ),
    "computes another coordinate's branches": (
        change(2, "compute b0s0", "branches 1:2", "branches 0:1"),
        "its branches are no batch of this rank",
    ),
    "reads what was never kept": (
        change(1, "compute b1s0", " keeps 6:8", ""),
        "rank 1 cannot compute block 0, step 1, branches 0:1: the keys and values of latent frame "
        "6 that task 1 made are not in the store",
    ),
    "reads what was dropped": (
        change(1, "compute b0s2", " reads 6:8#4", " reads 6:8#1"),
        "rank 1 cannot compute block 0, step 2, branches 0:1: the keys and values of latent frame "
        "6 that task 1 made are not in the store: never kept, or dropped already",
    ),
    "drops what was never kept": (
        change(1, "compute b0s1", " drops 6:8#1", " drops 6:8#0"),
        "the keys and values of latent frame 6 that task 0 made are not in the store",
    ),
    "keeps other frames than are read": (
        change(0, "compute b1s0", "keeps 6:8", "keeps 7:9"),
        "rank 0 cannot compute block 0, step 1, branches 0:1: the keys and values of latent frame "
        "6 that task 1 made are not in the store",
    ),
    "keeps twice": (
        change(0, "compute b1s0", "keeps 6:8", "keeps 6:8 7:8"),
        "the keys and values of latent frame 7 that task 1 made are kept already",
    ),
    "a hop is not sent": (
        drop(0, "send hop b2s2"),
        "no rank can go on: rank 0 waits for the guided of block 2, step 2 from rank 1; rank 1 "
        "waits for the hop of block 2, step 2, branches 0:1 from rank 0",
    ),
    "a result is not sent": (
        drop(1, "send guided b2s2"),
        "no rank can go on: rank 0 waits for the guided of block 2, step 2 from rank 1, whose "
        "actions end without sending it",
    ),
    "hops in another order": (
        both(swap(0, "send hop b1s0", "send hop b0s1")),
        "cannot send hop of block 0, step 1, branches 0:1 to rank 1: the hop of block 0, step 1, "
        "branches 0:1 is not here: not made",
    ),
    "receives in another order": (
        both(
            swap(1, "receive hop b1s0", "receive hop b0s1"),
            swap(1, "post hop b1s0", "post hop b0s1"),
        ),
        "rank 0 sends rank 1 the hop of block 1, step 0, branches 0:1 where rank 1 receives the "
        "hop of block 0, step 1, branches 0:1: the order on a link is the same on both sides",
    ),
    "other frames on the other side": (
        both(
            change(1, "receive hop b0s0", "6 frames", "4 frames"),
            change(1, "post hop b0s0", "6 frames", "4 frames"),
        ),
        "the hop of block 0, step 0, branches 0:1 has 6 frames where rank 0 sends it and 4 where "
        "rank 1 receives it",
    ),
    "not posted": (
        drop(0, "post guided b0s0"),
        "rank 0 cannot receive guided of block 0, step 0 from rank 1: it has not been posted",
    ),
    "posted in another order": (
        swap(1, "post hop b0s0", "post hop b1s0"),
        "rank 1 cannot receive hop of block 0, step 0, branches 0:1 from rank 0: the hop of block "
        "1, step 0, branches 0:1 with 6 frames was posted first",
    ),
    "posted in vain": (
        repeat(1, "post hop b2s2"),
        "rank 1 posts the hop of block 2, step 2, branches 0:1 from rank 0, but never receives it",
    ),
    "never received": (
        both(drop(1, "receive prediction b2s2"), drop(1, "post prediction b2s2")),
        "rank 1 cannot combine block 2, step 2: the prediction of block 2, step 2, branches 1:2 is "
        "not here",
    ),
    "sent too often": (
        repeat(0, "send hop b2s2"),
        "rank 0 cannot send hop of block 2, step 2, branches 0:1 to rank 1: the hop of block 2, "
        "step 2, branches 0:1 is not here: not made or received, or used up",
    ),
    "sent to the wrong rank": (
        change(0, "send hop b0s0", "to 1", "to 3"),
        "rank 0 cannot send hop of block 0, step 0, branches 0:1 to rank 3: it goes to rank 1",
    ),
    "latents are not sent": (
        both(
            drop(0, "send latents b2s2"),
            drop(2, "post latents b2s2"),
            drop(2, "receive latents b2s2"),
        ),
        "rank 2 cannot compute block 2, step 2, branches 1:2: its window is not here",
    ),
    "combines other frames": (
        change(1, "combine b0s0", "6 frames", "5 frames"),
        "it has 5 frames, but the prediction of block 0, step 0, branches 0:1 has 6",
    ),
    "advances without a result": (
        swap(0, "receive guided b0s0", "advance b0s0"),
        "rank 0 cannot advance block 0, step 0: the guided prediction is not here: not made or "
        "received",
    ),
    "emits too early": (
        swap(0, "emit b0", "advance b0s1"),
        "rank 0 cannot emit block 0: block 0 has 1 steps behind it",
    ),
    "emits half-way": (
        both(
            drop(0, "emit b1s2"),
            lambda plan: plan[0].insert(_find(plan, 0, "advance b1s1") + 1, "emit b1s1#4 4 frames"),
        ),
        "block 0 is the next to come out",
    ),
    "never emits": (
        both(drop(0, "emit b2"), *(drop(0, "decode b2") for _ in range(4))),
        "rank 0 cannot finish the video after block 2: it comes once, when the video's last block",
    ),
    "decodes out of turn": (
        swap(0, "decode b0s2#5 1 frames from 0", "decode b1s2#7 1 frames from 0"),
        "rank 0 cannot decode block 1: block 0 is the next: a VAE looks back",
    ),
    "another task's number": (
        change(1, "compute b0s1", "#2", "#3"),
        "the hop of block 0, step 1, branches 0:1 is not here",
    ),
    "another rank emits": (
        lambda plan: plan[1].append("emit b2s2#8 4 frames"),
        "rank 1 cannot emit block 2: only rank 0 holds the queue",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_plan_is_refused_in_words(name: str) -> None:
    layout = layout_of(2, 2, APART)
    plan = plan_of(layout, NextBlockKV(), FifoQueue(4, 2), 14, 3)
    lines = [[format_action(action) for action in actions] for actions in plan]
    edit, expected = MUTATIONS[name]
    edit(lines)
    with pytest.raises(PlanError) as error:
        validate([[parse_action(line) for line in rank] for rank in lines], layout)
    assert expected in str(error.value)


def test_every_line_matters() -> None:
    """No action can be left out of a plan."""
    layout = layout_of(2, 2, APART)
    plan = plan_of(layout, SameStepKV(), FifoQueue(4, 2), 14, 3)
    for rank, actions in enumerate(plan):
        for index in range(len(actions)):
            broken = [list(row) for row in plan]
            del broken[rank][index]
            with pytest.raises(PlanError):
                validate(broken, layout)


def test_too_many_messages_on_a_link() -> None:
    layout = layout_of(1, 4, APART)
    plan = plan_of(layout, NextBlockKV(), FifoQueue(4, 2), 44, 8)
    most = validate(plan, layout).outstanding
    assert validate(plan, layout, limit=most).outstanding == most
    with pytest.raises(PlanError, match=rf"{most} messages would be on their way to rank \d"):
        validate(plan, layout, limit=most - 1)


def test_a_deadlock_of_many_ranks_names_some() -> None:
    layout = layout_of(1, 1, TOGETHER)
    wide = Layout(mesh=Mesh(pipe=20), stages=stages_of([1] * 20), batches=layout.batches)
    plan = plan_of(wide, NextBlockKV(), FifoQueue(4, 2), 6, 1)
    plan[0] = []
    with pytest.raises(
        PlanError, match=r"rank 1 waits for the hop .* ends? without .*11 more wait"
    ):
        validate(plan, wide)


def test_the_number_of_ranks_is_the_meshs() -> None:
    with pytest.raises(PlanError, match="actions of 1 ranks, but its layout has 2"):
        validate([[]], layout_of(1, 2, TOGETHER))
