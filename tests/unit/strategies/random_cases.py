"""Random small denoisings, drawn from all schedulers and the caches that fit them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from longtake.caches import (
    AnchorKV,
    FeatureCache,
    NextBlockKV,
    NoCache,
    RollingKV,
    SameStepKV,
)
from longtake.noise import Independent
from longtake.schedulers import (
    Autoregressive,
    BlockScheduler,
    CascadeQueue,
    ContextWindows,
    DiffusionForcing,
    Extend,
    FifoQueue,
    FrameQueue,
    FullSequence,
    RollingWindow,
)
from longtake.testing.tiny.base import TinyCase

SEEDS: Final = range(30)
"""Three cases of every kind."""


def random_case(seed: int) -> TinyCase:
    """Return the case of a seed; seeds in a row are of different kinds."""
    draw = random.Random(seed)
    steps, frames = draw.randint(1, 4), draw.randint(1, 12)
    scheduler, cache, frame_levels = KINDS[seed % len(KINDS)](draw, steps)
    if isinstance(scheduler, FrameQueue):
        steps, frames = scheduler.blocks_in_flight(TinyCase().workload.video), min(frames, 4)
    return TinyCase(
        scheduler=scheduler,
        latent_frames=frames,
        steps=steps,
        cache=cache,
        noise=Independent(),
        sampler=draw.choice(
            ["FlowMatchEulerDiscreteScheduler-stochastic", "FlowMatchEulerDiscreteScheduler"]
            + ["UniPCMultistepScheduler"] * (not isinstance(scheduler, FrameQueue))
        ),
        scales=(draw.choice([1.0, 2.0]),),
        second_prompt_at=draw.choice([None, draw.randint(1, 8)]),
        frame_levels=frame_levels or draw.random() < 0.3,
        seed=seed,
    )


Drawn = tuple[BlockScheduler, FeatureCache, bool]
"""A scheduler, a cache, and whether they need a timestep per frame."""


def _queue(draw: random.Random, steps: int) -> Drawn:
    block = draw.randint(1, 4)
    scheduler = FifoQueue(block, draw.randint(0, block), draw.randint(1, steps + 1))
    cache = draw.choice([NextBlockKV(), SameStepKV(), NoCache()])
    return scheduler, cache, False


def _anchored(draw: random.Random, steps: int) -> Drawn:
    scheduler, cache, _ = _queue(draw, steps)
    return scheduler, AnchorKV(cache, draw.randint(1, 4)), False


def _whole(draw: random.Random, steps: int) -> Drawn:
    return FullSequence(), draw.choice([NoCache(), SameStepKV()]), False


def _rolling(draw: random.Random, own: int) -> RollingKV:
    sinks = draw.randint(0, 3)
    frames = draw.choice([None, own + sinks + draw.randint(0, 4)])
    buffer = None if frames is None else draw.choice([None, frames + draw.randint(0, 3)])
    return RollingKV(frames, sinks, buffer, draw.random() < 0.5, draw.random() < 0.5)


def _causal(draw: random.Random, steps: int) -> Drawn:
    block = draw.randint(1, 3)
    scheduler = Autoregressive(block, recache=draw.random() < 0.8)
    cache = draw.choice([_rolling(draw, block), _rolling(draw, block), NoCache()])
    return scheduler, cache, isinstance(cache, NoCache)


def _cascade(draw: random.Random, steps: int) -> Drawn:
    block = draw.randint(1, 3)
    scheduler = CascadeQueue(block, draw.randint(1, steps + 2), recache=draw.random() < 0.8)
    return scheduler, _rolling(draw, block), False


def _window(draw: random.Random, steps: int) -> Drawn:
    block = draw.randint(1, 2)
    return RollingWindow(block), _rolling(draw, block * steps), True


def _forcing(draw: random.Random, steps: int) -> Drawn:
    block, lag = draw.randint(1, 3), draw.randint(1, 3)
    blocks = -(-steps // lag) + draw.randint(0, 1)
    scheduler = DiffusionForcing(block, lag, block * blocks + draw.randint(0, block - 1))
    cache = draw.choice([RollingKV(block * blocks), NoCache()])
    return scheduler, cache, isinstance(cache, NoCache)


def _frames(draw: random.Random, steps: int) -> Drawn:
    scheduler = draw.choice([FrameQueue(2, 1), FrameQueue(2, 2), FrameQueue(3, 1, lookahead=False)])
    return scheduler, NoCache(), True


def _contexts(draw: random.Random, steps: int) -> Drawn:
    length, overlap = draw.randint(3, 5), draw.randint(1, 2)
    schedulers = [
        ContextWindows(length, overlap, "static", "relative"),
        ContextWindows(length, overlap, "uniform", "pyramid", 2),
        ContextWindows(length, overlap, "looped", "flat"),
    ]
    return draw.choice(schedulers), NoCache(), False


def _extended(draw: random.Random, steps: int) -> Drawn:
    length = draw.randint(2, 5)
    noised = draw.choice([0.0, 0.2])
    return Extend(length, draw.randint(0, length - 1), noised), NoCache(), True


KINDS: Final[list[Callable[[random.Random, int], Drawn]]] = [
    _queue,
    _anchored,
    _whole,
    _causal,
    _cascade,
    _window,
    _forcing,
    _frames,
    _contexts,
    _extended,
]
