"""What a plan knows of a run without tensors, against the tensors, after every task."""

from __future__ import annotations

from itertools import groupby
from unittest.mock import patch

import pytest
import torch
from tests.unit.strategies.random_cases import KINDS, SEEDS, random_case
from torch import Tensor

from longtake.caches import Chunk, Entry, FeatureStore, Forward
from longtake.plan.check.methods import check_method
from longtake.plan.check.queue_state import QueueState
from longtake.plan.ir.actions import Advance, Emit, Fuse, Open
from longtake.plan.ir.rank_role import RankRole
from longtake.plan.ir.schedule import TaskActions
from longtake.strategies import BlockQueue, GuidedBlocks, Layout, TaskForward
from longtake.task import spans
from longtake.testing.tiny.base import LAYERS, tiny_denoising

seeds = pytest.mark.parametrize("seed", SEEDS)


@seeds
def test_a_random_case_passes_the_check_of_methods(seed: int) -> None:
    check_method(random_case(seed).workload)


def test_the_seeds_draw_every_kind_of_scheduler_and_cache() -> None:
    cases = [random_case(seed) for seed in SEEDS]
    assert len({type(case.scheduler) for case in cases}) == len(KINDS) - 1  # two are of a queue
    found = {type(case.cache).__name__ for case in cases}
    assert found == {"NextBlockKV", "SameStepKV", "NoCache", "AnchorKV", "RollingKV"}


class Watch:
    """A run on one device, and beside it what is known of it without tensors."""

    def __init__(self, seed: int) -> None:
        self.case = random_case(seed)
        self.work = tiny_denoising(self.case)
        self.model = TaskForward(self.work)
        self.queue = BlockQueue(self.work)
        self.guided = GuidedBlocks(self.work)
        self.state = QueueState()
        layout = Layout.serial(LAYERS, len(self.work.guidance.branches))
        self.here = RankRole.of(layout, 0)
        self.tokens = self.work.backbone.spec.tokens_per_frame(self.work.height, self.work.width)
        self.held: dict[Entry, None] = {}
        self.made: dict[tuple[Entry, int], Tensor] = {}
        """Keys of every entry in every layer, as they were made."""
        self.finished: set[int] = set()
        self.forward: Forward | None = None

    def run(self) -> None:
        for forward in self.work.forwards:
            self.forward = forward
            actions = TaskActions(forward, self.here)
            for action in actions.open():
                assert isinstance(action, Open)
                self.state.open(action)
            latents = self.queue.latents(forward)
            self.finished.update(
                frame
                for enter in forward.task.enters
                if enter.version == self.case.steps
                for frame in enter.frames.each
            )
            with patch.object(FeatureStore, "put", self._put):
                hidden = self.model.embed(forward, latents)
                hidden = self.model.layers(forward, hidden, range(LAYERS))
            for entry in forward.window.drops:
                del self.held[entry]
            self.held.update(dict.fromkeys(entry for entry, _ in forward.window.keeps))
            if forward.task.runs:
                predicted = self.guided.combine(forward.task, self.model.predict(forward, hidden))
                list(self.queue.step(forward, predicted))
                self._advance(actions)
            self._compare_features()
            self._compare_queue()
        self.state.close()

    def _put(self, chunk: Chunk, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep a layer's chunk, and remember its keys by the frames that the cache says."""
        assert self.forward is not None
        keeps = sorted(
            self.forward.window.keeps, key=lambda one: (one[1].reader is None, one[1].reader or 0)
        )
        parts = [list(part) for _, part in groupby(keeps, lambda one: one[1].reader)]
        for number, (entry, _) in enumerate(parts[chunk.part]):
            first = number * self.tokens
            self.made[entry, layer] = k[:, first : first + self.tokens].clone()
        assert k.shape[1] == len(parts[chunk.part]) * self.tokens
        self.model.store._chunks[chunk, layer] = (k, v)

    def _advance(self, actions: TaskActions) -> None:
        assert self.forward is not None
        for action in actions.advance():
            if isinstance(action, Fuse):
                self.state.fuse(action)
            elif isinstance(action, Advance):
                self.state.advance(action)
            else:
                assert isinstance(action, Emit)
                self.state.emit(action)
        for run in self.forward.task.runs:
            if run.last_step:
                self.finished.update(run.block_frames.each)

    def _compare_features(self) -> None:
        """Table and store hold the entries that the walk over the windows holds, and no more."""
        table, store = self.model._table, self.model.store
        assert set(table._frames) == set(self.held), self.forward
        sizes = dict.fromkeys(((at.chunk, 0) for at in table._frames.values()), 0)
        for entry, at in table._frames.items():
            stop = at.start + self.tokens
            assert at.parts == (self.tokens,)
            sizes[at.chunk, 0] += self.tokens
            for layer in range(LAYERS):
                k, _ = store.get(at.chunk, layer)
                assert torch.equal(k[:, at.start : stop], self.made[entry, layer]), self.forward
        for (chunk, _), size in sizes.items():
            for layer in range(LAYERS):
                assert [x.shape[1] for x in store.get(chunk, layer)] == [size, size], self.forward
        assert len(store.chunks()) == len(sizes) * LAYERS, self.forward

    def _compare_queue(self) -> None:
        """The queue holds the blocks in flight, each at its version, and what is still seen."""
        assert self.forward is not None
        symbolic = {
            number: (block.frames, block.steps)
            for number, block in self.state._blocks.items()
            if block.steps < self.case.steps
        }
        real = {
            number: (block.frames, block.sampler._steps_done)  # type: ignore[attr-defined]
            for number, block in self.queue._blocks.items()
        }
        assert real == symbolic, self.forward
        for block in self.queue._blocks.values():
            assert block.latents.shape[2] == len(block.frames)
        wanted = {f for span in self.forward.window.latents for f in span.each}
        found = [f for span in self.queue._finished for f in span.frames.each]
        assert spans(sorted(found)) == spans(sorted(wanted & self.finished)), self.forward
        for span in self.queue._finished:
            assert span.latents.shape[2] == len(span.frames)


@seeds
def test_the_symbolic_state_is_the_real_one_after_every_task(seed: int) -> None:
    with torch.no_grad():
        Watch(seed).run()
