"""Cases of the strategy contract suite: videos in which all that ranks carry differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longtake.caches import AnchorKV, NoCache, RollingKV, SameStepKV
from longtake.noise import Independent
from longtake.schedulers import (
    Autoregressive,
    BlockScheduler,
    CascadeQueue,
    ContextWindows,
    Extend,
    FifoQueue,
    FrameQueue,
    FullSequence,
    RollingWindow,
)
from longtake.testing.tiny.base import TinyCase


def _causal(scheduler: BlockScheduler, **changes: Any) -> TinyCase:
    """Return a case of a causal few-step model."""
    case = TinyCase(
        scheduler=scheduler,
        cache=RollingKV(5, 1),
        noise=Independent(),
        sampler="FlowMatchEulerDiscreteScheduler-stochastic",
        scales=(2.0,),
    )
    return replace(case, **changes)


CASES: dict[str, TinyCase] = {
    "next-block-kv": TinyCase(),
    "same-step-kv": TinyCase(cache=SameStepKV()),
    "no-cache": TinyCase(cache=NoCache()),
    "stride-2": TinyCase(scheduler=FifoQueue(3, 2, stride=2)),
    "stride-2-same-step-kv": TinyCase(scheduler=FifoQueue(3, 3, stride=2), cache=SameStepKV()),
    "one-block-in-flight": TinyCase(scheduler=FifoQueue(3, 2, stride=5), cache=SameStepKV()),
    "five-blocks": TinyCase(latent_frames=17),
    "six-blocks-in-flight": TinyCase(latent_frames=23, steps=6, cache=SameStepKV()),
    "two-blocks": TinyCase(latent_frames=7),
    "one-block": TinyCase(latent_frames=4),
    "short-last-block": TinyCase(latent_frames=9, cache=SameStepKV()),
    "no-context": TinyCase(scheduler=FifoQueue(3, 0)),
    "full-sequence": TinyCase(scheduler=FullSequence(), latent_frames=5),
    "one-step": TinyCase(steps=1),
    "no-guidance": TinyCase(scales=(1.0,)),
    "prompt-schedule": TinyCase(second_prompt_at=6),
    "euler": TinyCase(sampler="FlowMatchEulerDiscreteScheduler"),
    "dpm-solver": TinyCase(sampler="DPMSolverMultistepScheduler"),
    "two-experts": TinyCase(scales=(4.0, 3.0)),
    "guidance-by-one-expert": TinyCase(scales=(4.0, 1.0), second_prompt_at=6),
    "autoregressive": _causal(Autoregressive(2)),
    "autoregressive-recache": _causal(Autoregressive(2), second_prompt_at=5),
    "cascade": _causal(CascadeQueue(2)),
    "cascade-stride-2-recache": _causal(CascadeQueue(2, stride=2), second_prompt_at=5),
    "rolling-window": _causal(
        RollingWindow(1),
        cache=RollingKV(6, 1, 7, moved_sinks=True),
        frame_levels=True,
        latent_frames=9,
    ),
    "frame-queue": _causal(FrameQueue(2, 2), cache=NoCache(), frame_levels=True, latent_frames=4),
    "context-windows": TinyCase(scheduler=ContextWindows(4, 2), cache=NoCache(), latent_frames=9),
    "looped-context-windows": TinyCase(
        scheduler=ContextWindows(4, 1, "looped", "flat"), cache=NoCache(), latent_frames=7
    ),
    "extend": TinyCase(
        scheduler=Extend(4, 2, noised=0.1),
        cache=NoCache(),
        noise=Independent(),
        frame_levels=True,
        latent_frames=9,
    ),
    "anchors": TinyCase(cache=AnchorKV(SameStepKV(), 1), latent_frames=14),
}
"""Small models and videos in which everything that a strategy must carry differs."""

RESUMED: tuple[str, ...] = (
    "next-block-kv",
    "stride-2-same-step-kv",
    "dpm-solver",
    "two-experts",
    "autoregressive-recache",
    "cascade",
    "rolling-window",
    "frame-queue",
    "context-windows",
    "extend",
    "anchors",
)
"""Cases that are cut and gone on with: every method, every kind of cache and sampler."""
