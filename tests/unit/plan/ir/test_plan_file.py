"""Plan files: they read back, what they say is run, and a wrong one is refused at its fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from longtake.errors import ConfigurationError
from longtake.plan.errors import PlanError
from longtake.plan.ir.plan_file import PlanFile, layout_line, read_plan, write_plan
from longtake.plan.ir.run import compile_run, mesh_actions
from longtake.plan.layout import Layout
from longtake.strategies import BlockDone, DualParal, SingleDevice
from longtake.strategies.from_plan import FromPlan
from longtake.testing.contracts.strategy_cases import CASES
from longtake.testing.contracts.strategy_runs import serial
from longtake.testing.tiny.base import tiny_denoising

CASE = CASES["same-step-kv"]
STRATEGY = DualParal(stages=2, cfg=1, guidance="together")


def layout_of(decoders: int = 0) -> Layout:
    return replace(STRATEGY.layout(2, CASE.workload), decoders=decoders)


def lines_of(decoders: int = 0) -> list[str]:
    layout, workload = layout_of(decoders), CASE.workload
    streams = compile_run(layout, workload, STRATEGY.actions)
    assert workload.latent_frames is not None
    return list(write_plan(layout, workload.latent_frames, streams))


@pytest.mark.parametrize("decoders", [0, 1])
def test_a_plan_reads_back_and_is_accepted(decoders: int) -> None:
    layout, plan = layout_of(decoders), read_plan(lines_of(decoders))
    written = compile_run(layout, CASE.workload, STRATEGY.actions)
    assert plan.streams == tuple(map(tuple, written))
    assert (plan.layout, plan.latent_frames) == (layout_line(layout), CASE.latent_frames)
    FromPlan(STRATEGY, plan).check(layout, CASE.workload)


def test_its_actions_are_given_from_any_task_on() -> None:
    """A request that ends early is drained by what comes after."""
    layout, strategy = layout_of(), FromPlan(STRATEGY, read_plan(lines_of()))
    walk = list(CASE.workload.forwards())
    for start in (0, 1, 5, len(walk) - 1):
        for rank in range(2):
            found = strategy.actions(walk[start:], 0, layout, rank)
            assert list(found) == list(STRATEGY.actions(walk[start:], 0, layout, rank))
    assert not list(strategy.actions([], 0, layout, 0))


@torch.no_grad()
def test_what_it_says_is_run() -> None:
    """On one rank; several run it in the command line's tests."""
    layout, workload = SingleDevice().layout(1, CASE.workload), CASE.workload
    streams = compile_run(layout, workload, SingleDevice().actions)
    plan = read_plan(write_plan(layout, CASE.latent_frames or 0, streams))
    strategy = FromPlan(SingleDevice(), plan)
    strategy.check(layout, workload)
    events = list(strategy.run(tiny_denoising(CASE), layout, 0))
    blocks = [event.latents for event in events if isinstance(event, BlockDone)]
    assert all(torch.equal(a, b) for a, b in zip(blocks, serial("same-step-kv"), strict=True))


def refusal(lines: list[str], decoders: int = 0) -> str:
    with pytest.raises(ConfigurationError) as refused:
        FromPlan(STRATEGY, read_plan(lines)).check(layout_of(decoders), CASE.workload)
    return str(refused.value)


def edited(edit: Callable[[list[str]], None], decoders: int = 0) -> list[str]:
    lines = lines_of(decoders)
    edit(lines)
    return lines


def find(lines: list[str], start: str) -> int:
    return next(index for index, line in enumerate(lines) if line.startswith(start))


def test_a_fault_is_shown_among_its_neighbors() -> None:
    def drop(lines: list[str]) -> None:
        lines.pop(find(lines, "1: receive hop b1s0"))

    text = refusal(edited(drop))
    assert "the plan cannot be run: rank 1 cannot compute block 1, step 0" in text
    assert "1: compute b1s0" in text
    assert text.count("<-- here") == 1
    assert len(text.splitlines()) == 1 + 5


def test_a_deadlock_shows_where_every_rank_stands() -> None:
    def drop(lines: list[str]) -> None:
        lines.pop(max(i for i, line in enumerate(lines) if line.startswith("0: send hop")))

    text = refusal(edited(drop))
    assert "no rank can go on" in text
    assert text.count("<-- here") == 2


def test_a_plan_of_something_else_is_refused() -> None:
    other = replace(read_plan(lines_of()), latent_frames=99)
    with pytest.raises(ConfigurationError, match="for 99 latent frames, but this video has 11"):
        FromPlan(STRATEGY, other).check(layout_of(), CASE.workload)
    wider = replace(layout_of(), batches=(range(1), range(1, 2)))
    with pytest.raises(ConfigurationError, match="it is for the layout 'pipe2 stages 0:2 2:4"):
        FromPlan(STRATEGY, read_plan(lines_of())).check(wider, CASE.workload)


def test_other_versions_than_the_schedules_are_refused() -> None:
    def edit(lines: list[str]) -> None:
        for rank in (0, 1):  # hold what the cache drops
            index = find(lines, f"{rank}: compute b1s0")
            assert " drops 3:5#0" in lines[index]
            lines[index] = lines[index].replace(" drops 3:5#0", "")

    assert "the schedule has no 'compute b1s0#" in refusal(edited(edit))


def test_decoding_has_its_place() -> None:
    def swap(lines: list[str]) -> None:
        at = find(lines, "0: decode b0")
        lines[at], lines[at - 1] = lines[at - 1], lines[at]

    assert "have their fixed places behind the other actions" in refusal(edited(swap))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], "its first line is to be 'format: 1', but says nothing of the kind"),
        (["format: 2"], "but says 2"),
        (["format: 1", "layout: 1"], "its header lacks"),
        (["format: 1", "layout: 1", "latent_frames: 4", "0: jump"], "line 4: ' jump' is no action"),
    ],
)
def test_what_is_no_plan_is_refused(lines: list[str], expected: str) -> None:
    with pytest.raises(PlanError) as refused:
        read_plan(lines)
    assert expected in str(refused.value)


def test_remarks_are_left_out() -> None:
    lines = [f"{line}  ; a remark" if line else line for line in lines_of()]
    assert read_plan(lines) == read_plan(lines_of())


def test_the_mesh_does_what_the_file_says() -> None:
    plan: PlanFile = read_plan(lines_of(1))
    strategy, layout = FromPlan(STRATEGY, plan), layout_of(1)
    for rank in range(layout.mesh.size):
        found = mesh_actions(strategy.actions, CASE.workload.forwards(), 0, layout, rank)
        expected = STRATEGY.actions(CASE.workload.forwards(), 0, layout, rank)
        assert list(found) == list(expected)
