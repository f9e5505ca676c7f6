"""Pairs of every scheduler and every cache, small: refused before a run, or equal everywhere."""

from __future__ import annotations

from itertools import product

from longtake.caches import (
    AnchorKV,
    FeatureCache,
    NextBlockKV,
    NoCache,
    RollingKV,
    SameStepKV,
)
from longtake.errors import ConfigurationError
from longtake.noise import Independent
from longtake.plan.check.methods import check_method
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

STEPS = 4

SCHEDULERS: dict[str, tuple[BlockScheduler, int]] = {
    "FullSequence": (FullSequence(), 8),
    "FifoQueue": (FifoQueue(3, 2), 14),
    "Autoregressive": (Autoregressive(2), 9),
    "CascadeQueue": (CascadeQueue(2), 9),
    "RollingWindow": (RollingWindow(1), 7),
    "DiffusionForcing": (DiffusionForcing(2, 2, 6), 11),
    "FrameQueue": (FrameQueue(2, 2), 4),
    "ContextWindows": (ContextWindows(4, 2), 9),
    "Extend": (Extend(4, 2, noised=0.1), 9),
}
"""A small scheduler and the latent frames of a video with several of its blocks."""

CACHES: dict[str, FeatureCache] = {
    "NoCache": NoCache(),
    "NextBlockKV": NextBlockKV(),
    "SameStepKV": SameStepKV(),
    "RollingKV": RollingKV(6, 1),
    "AnchorKV": AnchorKV(),
    "AnchorKV(SameStepKV)": AnchorKV(SameStepKV()),
}


def pair(scheduler: str, cache: str, *, frame_levels: bool) -> TinyCase:
    """Return a small video of a pair.

    Args:
        scheduler: Of ``SCHEDULERS``.
        cache: Of ``CACHES``.
        frame_levels: Whether the model takes a timestep per latent frame.
    """
    made, latent_frames = SCHEDULERS[scheduler]
    return TinyCase(
        scheduler=made,
        latent_frames=latent_frames,
        steps=STEPS,
        cache=CACHES[cache],
        noise=Independent(),
        sampler="FlowMatchEulerDiscreteScheduler-stochastic",
        scales=(2.0,),
        frame_levels=frame_levels,
    )


def refusal(case: TinyCase) -> str | None:
    """Return why a pair is refused before any weight is read; ``None``: it is not."""
    try:
        check_method(case.workload)
    except ConfigurationError as error:
        return str(error)
    return None


def allowed(scheduler: str) -> dict[str, TinyCase]:
    """Return the pairs of a scheduler that are not refused, by a name each."""
    cases = {
        f"{cache}, {'frame' if frame_levels else 'clip'}": pair(
            scheduler, cache, frame_levels=frame_levels
        )
        for cache, frame_levels in product(CACHES, (False, True))
    }
    return {name: case for name, case in cases.items() if refusal(case) is None}
