"""The contract suites find what is broken, and say it in words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from longtake.caches import FeatureCache, SameStepKV, Window
from longtake.models import (
    AnyBackbone,
    Attend,
    Backbone,
    Condition,
    Grid,
    LayerContext,
    PromptStates,
)
from longtake.models.layers.kernel import made
from longtake.noise import NoiseInit, NoiseSource
from longtake.schedulers import BlockScheduler, FifoQueue
from longtake.strategies import (
    BlockDone,
    Denoising,
    Layout,
    ParallelStrategy,
    Progress,
    SingleDevice,
    Workload,
)
from longtake.task import FrameRange, Task, Video
from longtake.testing.contracts import (
    BackboneContract,
    BlockSchedulerContract,
    FeatureCacheContract,
    NoiseInitContract,
    ParallelStrategyContract,
)
from longtake.testing.tiny.base import LAYERS, tiny_prompts, tiny_wan_backbone


class Queue(BlockScheduler):
    """The paper's queue, its tasks changed by a subclass."""

    inner = FifoQueue(3, 2)

    def change(self, task: Task) -> Task:
        return task

    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        return self.inner.blocks(latent_frames)

    def tasks(self, latent_frames: int | None, steps: int) -> Iterator[Task]:
        return map(self.change, self.inner.tasks(Video(latent_frames, steps)))

    def blocks_in_flight(self, latent_frames: int | None, steps: int) -> int:
        return self.inner.blocks_in_flight(Video(latent_frames, steps))


class StaleNeighbor(Queue):
    def change(self, task: Task) -> Task:
        if task.after is None or not task.after.steps_done:
            return task
        done = task.after.steps_done - 1
        return replace(task, after=replace(task.after, steps_done=done))


def test_a_schedule_that_names_another_version_is_found() -> None:
    class Suite(BlockSchedulerContract):
        def scheduler(self) -> BlockScheduler:
            return StaleNeighbor()

    with pytest.raises(AssertionError, match=r"says that block 1 has 0 steps .* order .* gives 1"):
        Suite().test_steps_done_is_what_replaying_the_order_shows(16, 4)


def test_noise_from_the_global_generator_is_found() -> None:
    class Global(NoiseInit):
        def blocks(self, source: NoiseSource, cut: Iterable[FrameRange]) -> Iterator[Tensor]:
            for frames in cut:
                yield torch.randn(1, source.channels, len(frames), source.height, source.width)

    class Suite(NoiseInitContract):
        def noise(self) -> NoiseInit:
            return Global()

    with pytest.raises(AssertionError, match="global generator moved"):
        Suite().test_torch_global_generator_is_neither_read_nor_moved()
    with pytest.raises(AssertionError, match="not repeatable"):
        Suite().test_noise_is_a_function_of_seed_request_and_block()


def test_a_cache_that_leaves_what_nobody_reads_is_found() -> None:
    class Hoarder(FeatureCache):
        def window(self, task: Task) -> Window:
            return replace(SameStepKV().window(task), reads_before=None)

    class Suite(FeatureCacheContract):
        def cache(self) -> FeatureCache:
            return Hoarder()

    with pytest.raises(AssertionError, match="nobody has read"):
        Suite().test_every_read_was_left_by_an_earlier_task_and_is_read_once("paper")
    with pytest.raises(AssertionError, match="latent frames held"):
        Suite().test_what_is_held_does_not_grow_with_the_length(1)


class Tampered(Backbone):  # type: ignore[type-arg]
    """Wan, with a layer or an embedding changed by a test."""

    def __init__(
        self,
        layers: Collection[int],
        *,
        wrap: Callable[[Attend], Attend] = lambda attend: attend,
        again: bool = False,
        drift: float = 0.0,
        positions: bool = True,
    ) -> None:
        self._inner = tiny_wan_backbone(layers)
        super().__init__(self._inner.spec, self._inner.positions if positions else None)
        self._wrap, self._again, self._drift, self._calls = wrap, again, drift, 0

    def condition_text(self, prompts: PromptStates) -> object:
        return self._inner.condition_text(prompts)

    def condition_step(self, timestep: float, guidance: float) -> object:
        return self._inner.condition_step(timestep, guidance)

    def embed(self, latents: Tensor, grid: Grid, condition: Condition) -> Tensor:  # type: ignore[type-arg]
        return self._inner.embed(latents, grid, condition)

    def layer(
        self,
        index: int,
        hidden: Tensor,
        context: LayerContext,  # type: ignore[type-arg]
        attend: Attend,
    ) -> Tensor:
        self._calls += 1
        if self._again:
            self._inner.layer(index, hidden, context, attend)
        out = self._inner.layer(index, hidden, context, self._wrap(attend))
        return out + self._drift * self._calls

    def head(self, hidden: Tensor, grid: Grid, condition: Condition) -> Tensor:  # type: ignore[type-arg]
        return self._inner.head(hidden, grid, condition)


def suite_of(make: Callable[[Collection[int]], AnyBackbone]) -> BackboneContract:
    class Suite(BackboneContract):
        def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
            return make(range(LAYERS) if layers is None else layers)

        def prompts(self) -> PromptStates:
            return tiny_prompts(2)

        def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
            raise NotImplementedError

    return Suite()


def swapped(attend: Attend) -> Attend:
    """Hand over ``(B, N, S, D)``, as torch's own attention takes it."""
    return lambda q, k, v: attend(
        made(q).transpose(1, 2), made(k).transpose(1, 2), made(v).transpose(1, 2)
    ).transpose(1, 2)


@torch.no_grad()
def test_a_backbone_that_misuses_attend_is_found() -> None:
    with pytest.raises(AssertionError, match="layer 0 did not call attend exactly once"):
        suite_of(
            lambda layers: Tampered(layers, again=True)
        ).test_a_layer_calls_attend_once_with_operands_of_BSND()
    with pytest.raises(AssertionError, match=r"attend got queries of shape \(2, 2, 18, 12\)"):
        suite_of(
            lambda layers: Tampered(layers, wrap=swapped)
        ).test_a_layer_calls_attend_once_with_operands_of_BSND()


@torch.no_grad()
def test_a_backbone_with_state_or_without_positions_is_found() -> None:
    with pytest.raises(AssertionError, match="layer 0 keeps state between calls"):
        suite_of(
            lambda layers: Tampered(layers, drift=1e-3)
        ).test_a_layer_keeps_no_state_between_calls()
    suite = suite_of(lambda layers: Tampered(layers, positions=False))
    with pytest.raises(AssertionError, match=r"embed\(\) ignores the frame offset, and there is"):
        suite.test_positions_are_the_frames_own()


class Broken(ParallelStrategy):
    """The serial run on any number of ranks, its events changed by a subclass."""

    inner = SingleDevice()

    def change(self, events: Iterator[Progress]) -> Iterator[Progress]:
        return events

    def layout(self, world_size: int, workload: Workload) -> Layout:
        return self.inner.layout(1, workload)

    def run(self, work: Denoising, layout: Layout, rank: int) -> Iterator[Progress]:
        yield from self.change(self.inner.run(work, layout, rank))


class Late(Broken):
    def change(self, events: Iterator[Progress]) -> Iterator[Progress]:
        return iter(sorted(events, key=lambda event: isinstance(event, BlockDone)))


class Rounding(Broken):
    def change(self, events: Iterator[Progress]) -> Iterator[Progress]:
        for event in events:
            if isinstance(event, BlockDone):
                yield replace(event, latents=event.latents * (1 + 1e-6))
            else:
                yield event


class Partial(Broken):
    def layout(self, world_size: int, workload: Workload) -> Layout:
        return replace(super().layout(world_size, workload), stages=(range(LAYERS - 1),))


def strategy_suite(strategy: ParallelStrategy, ranks: int = 1) -> ParallelStrategyContract:
    class Suite(ParallelStrategyContract):
        world_size = ranks

        def strategy(self) -> ParallelStrategy:
            return strategy

    return Suite()


def test_a_strategy_that_computes_something_else_is_found() -> None:
    suite = strategy_suite(Rounding())
    with pytest.raises(AssertionError, match=r"block 0 is .* from the serial run"):
        suite.test_a_video_is_that_of_the_serial_run("next-block-kv")
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        suite.test_impossible_world_sizes_are_refused_in_a_sentence()


def test_a_strategy_that_tells_of_its_blocks_late_is_found() -> None:
    with pytest.raises(AssertionError, match="block 0 does not follow its task"):
        strategy_suite(Late()).test_a_video_is_that_of_the_serial_run("next-block-kv")


def test_a_strategy_that_forgets_a_layer_is_found() -> None:
    with pytest.raises(AssertionError, match="layers by stage"):
        strategy_suite(Partial()).test_the_layout_covers_the_model()
