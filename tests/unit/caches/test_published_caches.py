"""Caches of causal models at random sizes, against plain lists that follow the papers' codes.

The second implementation below knows neither tasks nor windows: a buffer is a list of frames, each
with the pass that made its keys and values, and what goes is taken out of the list.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

import pytest

from longtake.caches import Entry, Kept, RollingKV, forwards
from longtake.schedulers import Autoregressive, BlockScheduler, CascadeQueue, RollingWindow
from longtake.task import Task, Video

Pass: TypeAlias = tuple[str, int]
"""What made a frame's keys and values: ``clean`` or ``recache``, and the block it was for."""


@dataclass
class Done:
    """One forward.

    Args:
        frames: That pass through the layers.
        levels: Step of each, the number of steps for finished ones.
        prompt: Number of the prompt.
        reads: Frame, position and pass of every entry that attention sees.
        buffer: What is kept after it.
    """

    frames: list[int]
    levels: list[int]
    prompt: int
    reads: list[tuple[int, int, Pass]] = field(default_factory=list)
    buffer: list[tuple[int, Pass]] = field(default_factory=list)


@dataclass(frozen=True)
class Sizes:
    """Of a random case; ``local`` of ``None``: all frames are seen."""

    block: int
    steps: int
    frames: int
    local: int | None
    sink: int
    buffer: int | None = None
    changes: tuple[int, ...] = ()
    keep: bool = True

    @property
    def blocks(self) -> list[list[int]]:
        every = list(range(self.frames))
        return [every[at : at + self.block] for at in range(0, self.frames, self.block)]

    def prompt_of(self, frame: int) -> int:
        return len([change for change in self.changes if change <= frame])


def block_after_block(sizes: Sizes) -> Iterator[Done]:
    """Self-Forcing's loop, and LongLive's where the prompt changes."""
    buffer: list[tuple[int, Pass]] = []
    finished: list[int] = []
    for number, own in enumerate(sizes.blocks):
        prompt = sizes.prompt_of(own[0])
        if number and prompt != sizes.prompt_of(sizes.blocks[number - 1][0]):
            again = finished if sizes.local is None else finished[-sizes.local :]
            stays = buffer[: sizes.sink] if sizes.keep and again[0] > 0 else []
            again = again[len(stays) :]
            buffer = stays + [(frame, ("recache", number)) for frame in again]
            reads = [(frame, frame, made) for frame, made in stays]
            if again:
                levels = [sizes.steps] * len(again)
                yield Done(again, levels, prompt, reads, list(buffer))
        if sizes.local is not None:
            while len(buffer) + len(own) > sizes.local:
                del buffer[sizes.sink]
        reads = [(frame, frame, made) for frame, made in buffer]
        for step in range(sizes.steps):
            yield Done(own, [step] * len(own), prompt, reads, list(buffer))
        if own is not sizes.blocks[-1] and own != sizes.blocks[-1]:
            buffer = buffer + [(frame, ("clean", number)) for frame in own]
            yield Done(own, [sizes.steps] * len(own), prompt, reads, list(buffer))
        finished = finished + own


def rolling(sizes: Sizes) -> Iterator[Done]:
    """Rolling Forcing's loop, without the passes that nobody reads."""
    assert sizes.local is not None
    assert sizes.buffer is not None
    buffer: list[tuple[int, Pass]] = []
    blocks, steps = sizes.blocks, sizes.steps
    for window in range(len(blocks) + steps - 1):
        oldest, newest = max(0, window - steps + 1), min(len(blocks) - 1, window)
        inside = range(oldest, newest + 1)
        own = [frame for block in inside for frame in blocks[block]]
        levels = [window - block for block in inside for _ in blocks[block]]
        reads: list[tuple[int, int, Pass]] = []
        if oldest > 0:
            while len(buffer) + len(blocks[oldest]) > sizes.buffer:
                del buffer[sizes.sink]
            sinks, recent = buffer[: sizes.sink], buffer[sizes.sink :]
            room = sizes.local - len(own) - len(sinks)
            while len(recent) > room:
                del recent[0]
            before = own[0] - len(recent) - len(sinks)
            reads += [(frame, before + at, made) for at, (frame, made) in enumerate(sinks)]
            reads += [(frame, frame, made) for frame, made in recent]
        yield Done(own, levels, 0, reads, list(buffer))
        if window - oldest == steps - 1 and oldest < len(blocks) - 1:
            own, seen = blocks[oldest], list(buffer)
            while len(seen) + len(own) > sizes.local:
                del seen[0]
            reads = [(frame, frame, made) for frame, made in seen]
            buffer = buffer + [(frame, ("clean", oldest)) for frame in own]
            yield Done(own, [steps] * len(own), 0, reads, list(buffer))


def ours(scheduler: BlockScheduler, cache: RollingKV, sizes: Sizes) -> Iterator[Done]:
    """Return what schedule and cache make of it, told alike."""
    made: dict[int, Pass] = {}
    held: dict[Entry, Kept] = {}
    video = Video(sizes.frames, sizes.steps, sizes.changes)
    for forward in forwards(scheduler.tasks(video), cache):
        task, window = forward.task, forward.window
        recache = any(leave.anew for leave in task.leaves)
        made[task.index] = (
            ("recache", task.prompt.start // sizes.block) if recache else ("clean", task.block)
        )
        for entry in window.drops:
            del held[entry]
        held.update(window.keeps)
        assert window.positions == window.frames
        yield Done(
            list(window.frames),
            [level(task, frame) for frame in window.frames],
            sizes.prompt_of(task.prompt.start),
            [(read.entry.frame, read.position, made[read.entry.index]) for read in window.reads],
            [(entry.frame, made[entry.index]) for entry in sorted(held)],
        )


def level(task: Task, frame: int) -> int:
    run = task.run_of(frame)
    return task.steps if run is None else run.step


def causal_sizes(seed: int) -> Sizes:
    draw = random.Random(seed)
    block, steps, frames = draw.randint(1, 4), draw.randint(1, 6), draw.randint(1, 40)
    sink = draw.choice([0, 0, 1, block, draw.randint(0, 3 * block)])
    local = draw.choice([None, sink + block, sink + block + draw.randint(0, 9)])
    changes: list[int] = []
    if draw.random() < 0.6 and frames > 4:
        changes = draw.sample(range(1, frames), draw.randint(1, 3))
        if draw.random() < 0.5:  # two within a block
            changes.append(changes[0] + 1)
    return Sizes(
        block,
        steps,
        frames,
        local,
        sink,
        changes=tuple(sorted({one for one in changes if one < frames})),
        keep=draw.random() < 0.5,
    )


def rolling_sizes(seed: int) -> Sizes:
    draw = random.Random(seed)
    block, steps, frames = draw.randint(1, 4), draw.randint(1, 6), draw.randint(1, 50)
    sink = draw.choice([0, block, draw.randint(0, 2 * block + 1)])
    local = sink + block * steps + draw.randint(0, 2 * block)
    return Sizes(block, steps, frames, local, sink, buffer=local + draw.randint(0, 2 * block))


def assert_alike(found: Iterator[Done], wanted: Iterator[Done], sizes: Sizes) -> None:
    for number in count():
        one, other = next(found, None), next(wanted, None)
        assert one == other, f"forward {number} of {sizes}"
        if one is None:
            return


@pytest.mark.parametrize("seed", range(200))
def test_block_after_block_is_the_published_loop(seed: int) -> None:
    sizes = causal_sizes(seed)
    cache = RollingKV(sizes.local, sizes.sink, keep_sinks=sizes.keep)
    assert_alike(ours(Autoregressive(sizes.block), cache, sizes), block_after_block(sizes), sizes)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("more", [1, 2])
def test_a_cascade_of_one_block_in_flight_is_the_published_loop(seed: int, more: int) -> None:
    sizes = causal_sizes(1000 + seed)
    cache = RollingKV(sizes.local, sizes.sink, keep_sinks=sizes.keep)
    cascade = CascadeQueue(sizes.block, stride=sizes.steps + more)
    assert_alike(ours(cascade, cache, sizes), block_after_block(sizes), sizes)


@pytest.mark.parametrize("seed", range(200))
def test_a_rolling_window_is_the_published_loop(seed: int) -> None:
    sizes = rolling_sizes(seed)
    cache = RollingKV(sizes.local, sizes.sink, sizes.buffer, moved_sinks=True)
    assert_alike(ours(RollingWindow(sizes.block), cache, sizes), rolling(sizes), sizes)


def test_the_draws_reach_what_is_worth_trying() -> None:
    """Sinks longer and shorter than a block, blocks cut by both ends, two changes in a block."""
    causal = [causal_sizes(seed) for seed in range(200)]
    windows = [rolling_sizes(seed) for seed in range(200)]
    for sizes in (causal, windows):
        assert any(0 < one.sink < one.block for one in sizes)
        assert any(one.sink > one.block and one.sink % one.block for one in sizes)
        assert any(one.frames % one.block for one in sizes)
        assert any(one.frames < one.block for one in sizes)
        assert any(one.local is not None and one.frames > 3 * one.local for one in sizes)
    assert any(one.local is None for one in causal)
    assert any(
        second - first == 1 and first % one.block
        for one in causal
        for first, second in zip(one.changes, one.changes[1:], strict=False)
    )
    assert any(len(one.blocks) < one.steps for one in windows)
    assert any((one.buffer or 0) > (one.local or 0) + one.block for one in windows)
