"""Parallel strategy contract suite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from longtake.errors import ConfigurationError, NoPlan
from longtake.plan.check.layouts import check_layout
from longtake.plan.check.validator import validate
from longtake.plan.ir.run import compile_run, mesh_actions
from longtake.strategies import (
    ActionDone,
    BlockDone,
    Communicator,
    ParallelStrategy,
    Progress,
    TaskDone,
)
from longtake.strategies.runtime.cuts import CutState
from longtake.task import Task
from longtake.testing.contracts.strategy_cases import CASES, RESUMED
from longtake.testing.contracts.strategy_runs import (
    blocks_of,
    close_early,
    run_requests,
    run_under_cuda_rules,
    serial,
    tasks_of,
)
from longtake.testing.cuda_rules.order import misordered
from longtake.testing.ranks import rank_pool
from longtake.testing.resumption import run_cut, run_on
from longtake.testing.tiny.base import TinyCase


# numpy's complaint about diffusers' DPM-Solver++, harmless.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
class ParallelStrategyContract(ABC):
    """What every parallel strategy must do: exactly what ``SingleDevice`` does.

    One rank runs in the test's own process, several run on the shared pool of
    :mod:`longtake.testing.ranks`: the strategy travels to them, so it must be plain data.
    """

    world_size: ClassVar[int] = 1
    """Ranks that run every case."""
    impossible: ClassVar[tuple[int, ...]] = (0,)
    """Numbers of ranks that the strategy must refuse."""
    refused: ClassVar[Collection[str]] = ()
    """Names of ``CASES`` that the strategy must refuse on ``world_size`` ranks."""
    part: ClassVar[slice] = slice(None)
    """Which of ``CASES`` are run: all, or, where the suites of several layouts differ in a number
    alone, every third in each of them."""
    tolerance: ClassVar[float] = 0.0
    """Largest difference from the serial run, relative to the largest latent. Say why above 0."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run tests of one case with each, as pytest asks."""
        if "name" in metafunc.fixturenames:
            resumed = metafunc.definition.originalname == "test_a_request_goes_on_from_any_cut"
            names = RESUMED if resumed else tuple(CASES)
            metafunc.parametrize("name", names[self.part])

    @abstractmethod
    def strategy(self) -> ParallelStrategy:
        """Return a new strategy."""

    def test_a_video_is_that_of_the_serial_run(self, name: str) -> None:
        """The one law: where things run never changes what is computed."""
        case = CASES[name]
        if name in self.refused:
            with pytest.raises(ConfigurationError):
                self.strategy().layout(self.world_size, case.workload)
            return
        ranks = self._on_ranks(run_requests, self.strategy(), [case])
        self._assert_video(name, [requests[0] for requests in ranks])

    def test_requests_run_one_after_another_and_alike_every_time(self) -> None:
        """Nothing of a request stays in the strategy or between the ranks."""
        names = ["same-step-kv", "short-last-block", "same-step-kv"]
        ranks = self._on_ranks(run_requests, self.strategy(), [CASES[name] for name in names])
        for index, name in enumerate(names):
            self._assert_video(name, [requests[index] for requests in ranks])
        for rank, (first, _, third) in enumerate(ranks):
            assert tasks_of(first) == tasks_of(third), f"tasks of rank {rank} differ"
            for before, again in zip(blocks_of(first), blocks_of(third), strict=True):
                assert torch.equal(before.latents, again.latents), f"block {before.block} differs"

    def test_a_request_goes_on_from_any_cut(self, name: str) -> None:
        """What is held at a cut is all that counts: the rest of the video is the same."""
        if name in self.refused:
            pytest.skip("the strategy refuses the case")
        case = CASES[name]
        tasks = len(list(case.workload.tasks()))
        cuts = sorted({1, tasks // 2, tasks - 2})
        ranks = self._on_ranks(run_cut, self.strategy(), case, cuts)
        output = self._output_rank(case)
        self._assert_blocks(ranks[output][0], serial(name))
        own_run = type(self.strategy()).run is not ParallelStrategy.run
        if own_run and not all(states for _, states in ranks):
            pytest.skip("the strategy runs tasks in a way of its own, and does not cut requests")
        for number, cut in enumerate(cuts):
            state = CutState.joined(states[number] for _, states in ranks)
            assert state.index == cut, "where the request is cut"
            rest = self._on_ranks(run_on, self.strategy(), case, state)[output]
            finished = [run for task in islice(case.workload.tasks(), cut) for run in task.finished]
            assert len(rest) + len(finished) == len(serial(name)), "blocks after the cut"
            self._assert_blocks(rest, serial(name))

    @pytest.mark.parametrize("count", [3, 14, 33])
    def test_a_request_that_was_closed_goes_on_where_it_was(self, count: int) -> None:
        """Blocks that were finished meanwhile are kept for whoever goes on."""
        case, expected = CASES["five-blocks"], serial("five-blocks")
        ranks = self._on_ranks(run_cut, self.strategy(), case, (), count)
        states = [states for _, states in ranks]
        if not all(states):
            pytest.skip("the request was closed in the midst of a task")
        output = self._output_rank(case)
        state = CutState.joined(states[-1] for states in states)
        heard = len(ranks[output][0])
        late = states[output][-1].late
        rest = self._on_ranks(run_on, self.strategy(), case, state)[output]
        missed = [BlockDone(one.block, one.frames, one.latents) for one in late]
        assert [one.block for one in missed + rest] == list(range(heard, len(expected)))
        self._assert_blocks([*ranks[output][0], *missed, *rest], expected)

    @pytest.mark.parametrize("count", [1, 6, 20])
    def test_closing_ends_an_endless_video_on_every_rank(self, count: int) -> None:
        """It begins like a finite one, and the request after it is whole."""
        # Blocks 0 and 1 finish before block 5 enters, so they do not know that there is one.
        self._close(replace(CASES["five-blocks"], latent_frames=None), count, serial("five-blocks"))

    def test_closing_after_the_last_block_is_an_end_like_any_other(self) -> None:
        """The request after it is whole here too."""
        case = CASES["two-blocks"]
        self._close(case, len(list(case.workload.tasks())) + 2, serial("two-blocks"))

    def test_no_device_would_hang(self) -> None:
        """Under CUDA's rules, emulated: see :mod:`longtake.testing.cuda_rules`."""
        name = "same-step-kv"
        if self.world_size > 1 and name not in self.refused:
            ranks = self._on_ranks(run_under_cuda_rules, self.strategy(), CASES[name])
            assert not misordered([log for _, log in ranks])
            self._assert_video(name, [events for events, _ in ranks])

    def test_the_layout_has_the_size_that_was_asked_for(self) -> None:
        """And is the same every time."""
        workload = CASES["next-block-kv"].workload
        layout = self.strategy().layout(self.world_size, workload)
        assert layout.mesh.size == self.world_size
        assert layout == self.strategy().layout(self.world_size, workload)

    def test_the_layout_is_one_of_those_that_were_weighed(self) -> None:
        """A plan shows what else there was."""
        strategy, workload = self.strategy(), CASES["next-block-kv"].workload
        weighed = strategy.alternatives(self.world_size, workload)
        assert strategy.layout(self.world_size, workload) in weighed
        assert {layout.mesh.size for layout in weighed} == {self.world_size}

    def test_impossible_world_sizes_are_refused_in_a_sentence(self) -> None:
        """Before any weight is read, with the number that was asked for."""
        for world_size in self.impossible:
            with pytest.raises(ConfigurationError, match=rf"\b{world_size}\b"):
                self.strategy().layout(world_size, CASES["next-block-kv"].workload)

    def test_the_layout_covers_the_model(self) -> None:
        """All layers and branches, each once and in order; the video comes out on rank 0."""
        for name in sorted({"next-block-kv", "no-guidance"}.difference(self.refused)):
            workload = CASES[name].workload
            layout = self.strategy().layout(self.world_size, workload)
            try:
                check_layout(type(self.strategy()).__name__, layout, workload, self.world_size)
            except ConfigurationError as error:
                raise AssertionError(str(error)) from error

    def _assert_blocks(self, blocks: Iterable[BlockDone], expected: list[Tensor]) -> None:
        for block in blocks:
            self._assert_equal(block, expected[block.block])

    def _output_rank(self, case: TinyCase) -> int:
        return self.strategy().layout(self.world_size, case.workload).output_rank

    def _close(self, case: TinyCase, count: int, expected: list[Tensor]) -> None:
        """Close ``case`` after ``count`` tasks and blocks, then run another request."""
        ranks = self._on_ranks(close_early, self.strategy(), case, count, CASES["same-step-kv"])
        output, others = self._split(case, [closed for closed, _ in ranks])
        schedule = list(islice(case.workload.tasks(), 100))
        assert len(tasks_of(output)) + len(blocks_of(output)) == count, "events before the end"
        _assert_order(output, schedule)
        for other in others:
            _assert_part(other, schedule)
        for block, latents in zip(blocks_of(output), expected, strict=False):
            self._assert_equal(block, latents)
        self._assert_video("same-step-kv", [whole for _, whole in ranks])

    def _assert_video(self, name: str, ranks: list[list[Progress]]) -> None:
        case, expected = CASES[name], serial(name)
        output, others = self._split(case, ranks)
        schedule = list(case.workload.tasks())
        _assert_order(output, schedule)
        assert len(tasks_of(output)) == len(schedule), "the output rank does not report every task"
        for other in others:
            _assert_part(other, schedule)
        blocks = blocks_of(output)
        cut = case.scheduler.blocks(case.latent_frames)
        assert [block.frames for block in blocks] == list(cut), "frames of the blocks"
        for block, latents in zip(blocks, expected, strict=True):
            self._assert_equal(block, latents)
        self._assert_planned(case, ranks)

    def _assert_planned(self, case: TinyCase, ranks: list[list[Progress]]) -> None:
        """What was done is what is planned, and the plan is valid; a strategy may have none."""
        strategy, workload = self.strategy(), case.workload
        layout = strategy.layout(self.world_size, workload)
        with suppress(NoPlan):
            validate(list(compile_run(layout, workload, strategy.actions)), layout)
            for rank, events in enumerate(ranks):
                planned = mesh_actions(strategy.actions, workload.forwards(), 0, layout, rank)
                done = [event.action for event in events if isinstance(event, ActionDone)]
                assert done == list(planned), f"rank {rank} has not done what was planned"

    def _assert_equal(self, block: BlockDone, latents: Tensor) -> None:
        assert block.latents.shape == latents.shape
        assert block.latents.dtype == torch.float32
        difference = (block.latents - latents).abs().max() / latents.abs().max()
        assert difference <= self.tolerance, (
            f"block {block.block} is {difference:.2e} (relative) from the serial run, "
            f"more than {self.tolerance:.0e}"
        )

    def _split(
        self, case: TinyCase, ranks: list[list[Progress]]
    ) -> tuple[list[Progress], list[list[Progress]]]:
        """Return what the output rank yielded, and what the others did."""
        output = self.strategy().layout(self.world_size, case.workload).output_rank
        return ranks[output], ranks[:output] + ranks[output + 1 :]

    def _on_ranks(self, function: Callable[..., Any], *args: object) -> list[Any]:
        if self.world_size == 1:
            return [function(Communicator.alone(), *args)]
        return rank_pool(self.world_size).run(function, *args)


def _assert_order(events: list[Progress], schedule: list[Task]) -> None:
    """Tasks come in the order of the schedule, each block right after its last one."""
    tasks = tasks_of(events)
    assert tasks == schedule[: len(tasks)], "tasks do not come in the order of the schedule"
    shown = [event for event in events if isinstance(event, TaskDone | BlockDone)]
    for before, event in pairwise([None, *shown]):
        if isinstance(event, BlockDone):
            last = before.task if isinstance(before, TaskDone) else None
            assert last is not None, f"block {event.block} does not follow its last task"
            finished = [run.block for run in last.finished]
            assert event.block in finished, f"block {event.block} does not follow its last task"


def _assert_part(events: list[Progress], schedule: list[Task]) -> None:
    """A rank that is not the output's reports some tasks in order, and of no block."""
    assert not blocks_of(events), "blocks come from the output rank alone"
    rest = iter(schedule)
    for task in tasks_of(events):
        assert task in rest, f"{task} is reported twice or out of order"
