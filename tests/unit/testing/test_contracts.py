"""The contract suites find what is broken, and say it in words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from itertools import chain, count, groupby

import pytest
import torch
from torch import Tensor

from longtake.caches import (
    Entry,
    FeatureCache,
    Held,
    Kept,
    NextBlockKV,
    NoCache,
    Read,
    SameStepKV,
    Window,
    forwards,
)
from longtake.errors import ConfigurationError
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
from longtake.plan.check.validator import validate
from longtake.plan.errors import PlanError
from longtake.plan.ir.run import compile_run
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
from longtake.task import FrameRange, Run, Seen, Task, Video
from longtake.testing.contracts import (
    BackboneContract,
    BlockSchedulerContract,
    FeatureCacheContract,
    NoiseInitContract,
    ParallelStrategyContract,
)
from longtake.testing.tiny.base import LAYERS, TinyCase, tiny_prompts, tiny_wan_backbone


class Queue(BlockScheduler):
    """The paper's queue, its tasks changed by a subclass."""

    inner = FifoQueue(3, 2)

    def change(self, task: Task) -> Task:
        return task

    def blocks(self, latent_frames: int | None) -> Iterator[FrameRange]:
        return self.inner.blocks(latent_frames)

    def tasks(self, video: Video) -> Iterator[Task]:
        return map(self.change, self.inner.tasks(video))

    def blocks_in_flight(self, video: Video) -> int:
        return self.inner.blocks_in_flight(video)


class StaleNeighbor(Queue):
    def change(self, task: Task) -> Task:
        stale = (
            replace(seen, version=seen.version - 1)
            if seen.frames.start > task.own[-1] and seen.version
            else seen
            for seen in task.sees
        )
        return replace(task, sees=tuple(stale))


class EarlyNeighbor(Queue):
    """Lets the newest block see the next one, which comes in a pass later."""

    def change(self, task: Task) -> Task:
        if task.step or task.block == 4:  # 16 frames are 5 blocks
            return task
        stop = task.own[-1] + 1
        after = Seen(frames=FrameRange(stop, min(stop + 2, 16)), version=0)
        return replace(task, sees=(*task.sees, after))


class OldestFirst(Queue):
    """The paper's queue with the blocks of each iteration the other way round."""

    def tasks(self, video: Video) -> Iterator[Task]:
        index = count()
        for _, together in groupby(self.inner.tasks(video), lambda task: task.iteration):
            for task in reversed(list(together)):
                yield replace(task, index=next(index))


class LastFirst(Queue):
    """Whole blocks one after another, but the second one first."""

    def tasks(self, video: Video) -> Iterator[Task]:
        tasks = FifoQueue(3, 2, stride=video.steps).tasks(video)
        by_block = [list(group) for _, group in groupby(tasks, lambda task: task.block)]
        by_block[:2] = reversed(by_block[:2])
        for index, task in enumerate(chain.from_iterable(by_block)):
            yield replace(task, index=index, sees=())


class Forgetful(Queue):
    """Gives a finished block's last frames up, though the next block still sees them."""

    def change(self, task: Task) -> Task:
        return replace(task, later=())


def scheduler_suite(scheduler: BlockScheduler) -> BlockSchedulerContract:
    class Suite(BlockSchedulerContract):
        def scheduler(self) -> BlockScheduler:
            return scheduler

    return Suite()


def test_a_schedule_that_names_another_version_is_found() -> None:
    suite = scheduler_suite(StaleNeighbor())
    with pytest.raises(AssertionError, match=r"latent frame 5 has 0 steps .* order .* gives 1"):
        suite.test_versions_are_what_replaying_the_order_shows(16, 4)


def test_a_schedule_that_sees_a_block_before_it_has_entered_is_found() -> None:
    suite = scheduler_suite(EarlyNeighbor())
    with pytest.raises(AssertionError, match=r"latent frame 5 has 0 steps .* order .* gives None"):
        suite.test_versions_are_what_replaying_the_order_shows(16, 4)


def test_a_schedule_with_its_blocks_out_of_order_is_found() -> None:
    suite = scheduler_suite(OldestFirst())
    with pytest.raises(AssertionError, match=r"latent frame 5 has 1 steps .* order .* gives None"):
        suite.test_versions_are_what_replaying_the_order_shows(16, 4)
    suite = scheduler_suite(LastFirst())
    with pytest.raises(AssertionError, match="blocks enter in another order than that of time"):
        suite.test_blocks_enter_once_before_they_run(16, 4)
    with pytest.raises(AssertionError):
        suite.test_blocks_finish_in_the_order_of_time(16, 4)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            StaleNeighbor(),
            "it sees latent frame 5 with 0 steps behind it, but its block 1 has 1 steps",
        ),
        (
            EarlyNeighbor(),
            "it sees latent frame 5 with 0 steps behind it, but it is not in the queue",
        ),
        (
            OldestFirst(),
            "it sees latent frame 5 with 1 steps behind it, but it is not in the queue",
        ),
        (LastFirst(), "rank 0 cannot emit block 1: block 0 is the next to come out"),
    ],
)
def test_plans_of_wrong_schedules_are_refused(scheduler: BlockScheduler, message: str) -> None:
    strategy = SingleDevice()
    workload = replace(
        TinyCase(cache=NoCache()).workload, scheduler=scheduler, latent_frames=16, steps=4
    )
    layout = strategy.layout(1, workload)
    with pytest.raises(PlanError) as refused:
        validate(compile_run(layout, workload, strategy.actions), layout)
    assert message in str(refused.value)


def test_a_schedule_that_gives_up_frames_too_early_is_found() -> None:
    suite = scheduler_suite(Forgetful())
    with pytest.raises(AssertionError, match="sees latent frame 3, which it gave up before"):
        suite.test_what_is_seen_has_been_promised(16, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: replace(run, frames=run.frames[1:]), "several windows, no weights"),
        (lambda run: replace(run, frames=run.frames[:1] * 2), "holds a frame twice"),
        (lambda run: replace(run, advances=False), "several windows, no weights"),
    ],
)
def test_a_schedule_whose_windows_leave_frames_out_is_found(
    change: Callable[[Run], Run], message: str
) -> None:
    class Gap(Queue):
        def change(self, task: Task) -> Task:
            return replace(task, runs=tuple(map(change, task.runs)))

    with pytest.raises(AssertionError, match=message):
        scheduler_suite(Gap()).test_windows_of_one_step_cover_their_block(16, 4)


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
        Suite().test_noise_is_a_function_of_seed_and_block()


def test_a_cache_that_leaves_what_nobody_reads_is_found() -> None:
    class Hoarder(FeatureCache):
        def window(self, task: Task, held: Held) -> Window:
            found = SameStepKV().window(task, held)
            read = {read.entry for read in found.reads_before}
            drops = tuple(entry for entry in found.drops if entry not in read)
            return replace(found, reads_before=(), drops=drops)

    suite = cache_suite(Hoarder())
    with pytest.raises(AssertionError, match="paper: nobody has read"):
        suite.test_what_is_left_is_read()
    with pytest.raises(AssertionError, match="paper: latent frames held"):
        suite.test_what_is_held_does_not_grow_with_the_length()


def cache_suite(cache: FeatureCache) -> FeatureCacheContract:
    class Suite(FeatureCacheContract):
        def cache(self) -> FeatureCache:
            return cache

    return Suite()


class Changed(FeatureCache):
    """NextBlockKV, its windows changed by a subclass."""

    def change(self, window: Window, task: Task) -> Window:
        return window

    def window(self, task: Task, held: Held) -> Window:
        return self.change(NextBlockKV().window(task, held), task)


class Inventor(Changed):
    """Reads what nobody has made."""

    def change(self, window: Window, task: Task) -> Window:
        read = Read(Entry(99, 0), 99)
        return replace(window, reads_after=(read,)) if task.index == 3 else window


class Foreseer(Changed):
    """Reads what a later task makes."""

    def change(self, window: Window, task: Task) -> Window:
        read = Read(Entry(5, 7), 5)
        return replace(window, reads_after=(read,)) if task.index == 3 else window


class LateReader(FeatureCache):
    """Reads an entry once more after it has dropped it."""

    def __init__(self) -> None:
        self.dropped: tuple[Entry, ...] = ()

    def window(self, task: Task, held: Held) -> Window:
        found = NextBlockKV().window(task, held)
        again = tuple(Read(entry, entry.frame) for entry in self.dropped)
        self.dropped = found.drops
        return replace(found, reads_before=again)


class TwiceDropper(Changed):
    """Drops what is not held."""

    def change(self, window: Window, task: Task) -> Window:
        return replace(window, drops=(Entry(4, 0),)) if task.index == 3 else window


class Claimant(Changed):
    """Leaves the keys and values of a frame that it does not compute."""

    def change(self, window: Window, task: Task) -> Window:
        return replace(window, keeps=((Entry(99, task.index), Kept(0)),))


class Narrow(Changed):
    """Leaves the last one of its own frames out of the window."""

    def change(self, window: Window, task: Task) -> Window:
        return replace(window, frames=window.frames[:-1], positions=window.positions[:-1])


class Wide(Changed):
    """Forwards more than the schedule lets it see."""

    def change(self, window: Window, task: Task) -> Window:
        more = (*window.frames, window.frames[-1] + 1)
        return replace(window, frames=more, positions=more)


WRONG: list[tuple[Callable[[], FeatureCache], str]] = [
    (
        Inventor,
        r"task 3 \(block 2, step 0\) reads the keys and values of latent frame 99 that task 0 "
        r"made, but nobody has left them, or they have been dropped; use a cache that fits",
    ),
    (Foreseer, r"latent frame 5 that task 7 made, but that task comes later"),
    (
        LateReader,
        r"task 3 \(block 2, step 0\) reads the keys and values of latent frame 5 that task 1 "
        r"made, but nobody has left them, or they have been dropped",
    ),
    (TwiceDropper, r"task 3 .* drops the keys and values of latent frame 4 of task 0, which are"),
    (Claimant, r"cannot leave the keys and values of latent frame 99: it does not compute them"),
    (Narrow, r"task 0 \(block 0, step 0\) leaves out latent frame 4 of its own"),
    (Wide, r"task 0 .* forwards latent frame 5, which the schedule does not let it see"),
]


@pytest.mark.parametrize(("cache", "message"), WRONG, ids=lambda one: getattr(one, "__name__", ""))
def test_a_cache_that_reads_keeps_or_drops_what_cannot_be_is_refused(
    cache: Callable[[], FeatureCache], message: str
) -> None:
    """By the walk over the schedule that runs and plans begin with, and so by the suite."""
    with pytest.raises(ConfigurationError, match=message):
        list(forwards(FifoQueue(3, 2).tasks(Video(23, 5)), cache()))
    with pytest.raises(ConfigurationError, match=message):
        cache_suite(cache()).test_every_walk_over_a_schedule_is_sound()


def test_a_cache_with_state_or_torn_windows_is_found() -> None:
    class Reversed(Changed):
        def change(self, window: Window, task: Task) -> Window:
            return replace(window, frames=window.frames[::-1], positions=window.positions[::-1])

    class Double(FeatureCache):
        def window(self, task: Task, held: Held) -> Window:
            found = SameStepKV().window(task, held)
            return replace(found, reads_after=(*found.reads_after, *found.reads_before))

    class Short(Changed):
        def change(self, window: Window, task: Task) -> Window:
            return replace(window, latents=())

    class Counting(Changed):
        calls = 0

        def change(self, window: Window, task: Task) -> Window:
            self.calls += 1
            return replace(window, latents=(FrameRange(0, self.calls),))

    with pytest.raises(AssertionError):
        cache_suite(Reversed()).test_windows_hold_the_own_frames_together()
    with pytest.raises(AssertionError, match="reads a frame twice"):
        cache_suite(Double()).test_nothing_is_read_of_the_window_itself()
    with pytest.raises(AssertionError, match="paper: Task"):
        cache_suite(Short()).test_latents_that_are_forwarded_have_been_promised()
    with pytest.raises(AssertionError):
        cache_suite(Counting()).test_a_window_is_a_function_of_the_task_and_what_is_held()


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
    with pytest.raises(AssertionError, match=r"attend queries of shape \(2, 2, 18, 12\)"):
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
    with pytest.raises(AssertionError, match="ignores the frame offset, and nothing else"):
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
    with pytest.raises(AssertionError, match="block 0 does not follow its last task"):
        strategy_suite(Late()).test_a_video_is_that_of_the_serial_run("next-block-kv")


def test_a_strategy_that_forgets_a_layer_is_found() -> None:
    with pytest.raises(AssertionError, match="stages hold all of them, in order"):
        strategy_suite(Partial()).test_the_layout_covers_the_model()
