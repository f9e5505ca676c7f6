"""Cards of the published methods that longtake's schedulers run."""

from __future__ import annotations

from typing import Final

from longtake.schedulers.card import MethodCard

_FEW_STEPS: Final = {
    "timesteps": "[1000, 750, 500, 250]",
    "flow_shift": "5.0",
    "sampler": "{scheduler: FlowMatchEulerDiscreteScheduler, options: {stochastic_sampling: true}}",
    "guidance_scale": "1.0",
}
"""Of models that are distilled to a few steps and drawn to fresh noise after each."""
_IN_FLIGHT: Final = "DualParal: stages work on the blocks in flight; SequenceParallel, cfg"
_ONE_BLOCK: Final = "SequenceParallel, cfg: one block at a time"

ORDINARY: Final = MethodCard(
    method="ordinary clip",
    purpose="A clip of the model's own length, as its diffusers pipeline makes it.",
    settings={"scheduler": "FullSequence", "cache": "NoCache", "noise": "Independent"},
    steps=50,
    models="all",
    scales="SequenceParallel, cfg: one window",
    latent_frames=21,
)
DUAL_PARAL: Final = MethodCard(
    method="DualParal",
    purpose="Long and endless videos from an ordinary model.",
    settings={"scheduler": "FifoQueue", "cache": "NextBlockKV", "noise": "SharedPool"},
    steps=50,
    models="all; with a timestep per frame, context is told its true noise level",
    scales=_IN_FLIGHT,
    paper="AAAI 2026, arXiv 2505.21070",
)
SAME_STEP: Final = MethodCard(
    method="DualParal with features of the same step",
    purpose="The same queue for half the work and memory that grows with the steps: for few steps.",
    settings={"scheduler": "FifoQueue", "cache": "SameStepKV", "noise": "SharedPool"},
    steps=8,
    models="all",
    scales=_IN_FLIGHT,
)
ANCHORED: Final = MethodCard(
    method="DualParal with anchors",
    purpose="The same queue, with the first frames in every window, against drift.",
    settings={
        "scheduler": "FifoQueue",
        "cache": "{class_path: AnchorKV, init_args: {frames: 1}}",
        "noise": "SharedPool",
    },
    steps=50,
    models="all",
    scales=_IN_FLIGHT,
)
SELF_FORCING: Final = MethodCard(
    method="CausVid, Self-Forcing",
    purpose="Block after block of a causal few-step model; the first one comes soonest.",
    settings={
        "scheduler": "Autoregressive",
        "cache": "RollingKV",
        "noise": "Independent",
        **_FEW_STEPS,
    },
    steps=4,
    models="causal: Self-Forcing, CausVid, Causal-Forcing",
    scales=_ONE_BLOCK,
    paper="arXiv 2412.07772, 2506.08009",
)
LONG_LIVE: Final = MethodCard(
    method="LongLive",
    purpose="The same with the first frames as sinks, and prompts that change on the way.",
    settings={
        "scheduler": "Autoregressive",
        "cache": "{class_path: RollingKV, init_args: {frames: 12, sinks: 3}}",
        "noise": "Independent",
        **_FEW_STEPS,
    },
    steps=4,
    models="causal: LongLive 1",
    scales=_ONE_BLOCK,
    paper="arXiv 2509.22622",
)
BLOCK_CASCADING: Final = MethodCard(
    method="Block Cascading, StreamDiffusionV2's stream batch",
    purpose="Blocks of a causal few-step model in flight together, for several devices.",
    settings={
        "scheduler": "CascadeQueue",
        "cache": "RollingKV",
        "noise": "Independent",
        **_FEW_STEPS,
    },
    steps=4,
    models="causal: Self-Forcing, CausVid, Causal-Forcing",
    scales=_IN_FLIGHT,
    paper="arXiv 2511.20426, 2511.07399",
)
ROLLING_FORCING: Final = MethodCard(
    method="Rolling Forcing",
    purpose="A window of blocks at all noise levels, which see each other while denoised.",
    settings={
        "scheduler": "RollingWindow",
        "cache": "{class_path: RollingKV, "
        "init_args: {frames: 21, sinks: 3, buffer: 24, moved_sinks: true}}",
        "noise": "Independent",
        "timesteps_per": "frame",
        **_FEW_STEPS,
        "timesteps": "[1000, 800, 600, 400, 200]",
    },
    steps=5,
    models="Rolling Forcing's",
    scales="SequenceParallel: the windows are large",
    paper="arXiv 2509.25161",
)
DIFFUSION_FORCING: Final = MethodCard(
    method="SkyReels-V2, asynchronous",
    purpose="Blocks that lag behind each other, each seeing the older ones.",
    settings={
        "scheduler": "{class_path: DiffusionForcing, init_args: {lag: 10}}",
        "cache": "{class_path: RollingKV, init_args: {frames: 25}}",
        "noise": "Independent",
    },
    steps=50,
    models="trained with a noise level per frame: SkyReels-V2 DF",
    scales=_IN_FLIGHT,
    paper="arXiv 2504.13074",
)
FIFO_DIFFUSION: Final = MethodCard(
    method="FIFO-Diffusion",
    purpose="One frame out per iteration, every frame at a noise level of its own.",
    settings={
        "scheduler": "FrameQueue",
        "cache": "NoCache",
        "noise": "Independent",
        "steps": "64",
        "timesteps_per": "frame",
    },
    steps=64,
    models="with a timestep per frame, or told one: Wan, SkyReels-V2",
    scales="DualParal: forwards of an iteration do not wait for each other; SequenceParallel, cfg",
    paper="arXiv 2405.11473",
)
CONTEXT_WINDOWS: Final = MethodCard(
    method="ComfyUI's context windows, FreeNoise, MultiDiffusion in time",
    purpose="A longer clip from an ordinary model: all of it at once, in windows that are fused.",
    settings={"scheduler": "ContextWindows", "cache": "NoCache", "noise": "FreeNoise"},
    steps=50,
    models="all",
    scales="DualParal: windows of a step do not wait for each other; SequenceParallel, cfg",
    paper="arXiv 2310.15169, 2302.08113",
)
EXTENSION: Final = MethodCard(
    method="SkyReels-V2, synchronous; LongCat-Video's continuation",
    purpose="Clip after clip, each going on from the last frames of the one before.",
    settings={
        "scheduler": "{class_path: Extend, init_args: {noised: 0.02}}",
        "cache": "NoCache",
        "noise": "Independent",
    },
    steps=50,
    models="with a timestep per frame: SkyReels-V2 DF, Wan 2.2 TI2V",
    scales=_ONE_BLOCK,
    paper="arXiv 2504.13074, 2510.22200",
)
