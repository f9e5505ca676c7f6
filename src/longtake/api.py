"""Public API: every name that a script or a plug-in may import, and nothing else.

``from longtake.api import BlockScheduler`` imports what that one name needs; importing this module
imports nothing (the contract suites need pytest, the video module Lightning). What is listed here
changes by the rules of ``docs/migrating.md`` only; what is not may change at any time.

``python tools/public_api.py --write`` makes what type checkers read (``api.pyi``), the table of
``docs/api.md`` and the snapshot of all signatures (``docs/api/signatures.txt``) from this list.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from longtake.errors import nearest

GROUPS: Final[Mapping[str, Mapping[str, str]]] = {
    "Videos from Python": {
        "longtake.framework.trainer": "InferenceTrainer",
        "longtake.framework.module": "VideoModule",
        "longtake.framework.data": "PromptData",
        "longtake.framework": "Engine GenerationConfig Request PromptAt Keyframe",
        "longtake.framework.writers": "FrameWriter VideoShape VideoFormat frame_writer",
    },
    "Callbacks and events": {
        "longtake.framework.callbacks": "LongtakeCallback VideoWriter",
        "longtake.framework": "Event RequestStarted FramesDecoded RequestEnded ExitReason",
        "longtake.strategies": "TaskDone BlockDone ActionDone",
    },
    "Plug-ins": {
        "longtake.plugins": "CONTRACT_VERSION",
    },
    "Errors": {
        "longtake.errors": "LongtakeError ConfigurationError NoPlan ModelError OutputError "
        "NumbersError RankFailure",
    },
    "Schedules of blocks": {
        "longtake.schedulers": "BlockScheduler MethodCard Autoregressive CascadeQueue "
        "ContextWindows DiffusionForcing Extend FifoQueue FrameQueue FullSequence RollingWindow",
        "longtake.task": "Enter FrameRange Frames Run Seen Task Video",
    },
    "Noise": {
        "longtake.noise": "NoiseInit NoiseSource StepNoise FreeNoise Independent SharedPool",
    },
    "Feature caches": {
        "longtake.caches": "FeatureCache Entry Held Kept Read Window Forward forwards AnchorKV "
        "NextBlockKV NoCache RollingKV SameStepKV",
    },
    "Samplers": {
        "longtake.models": "Sampler BlockSampler SamplerSettings SamplerState DiffusersSampler "
        "DiffusersScheduler load_sampler load_scheduler",
        "longtake.models.samplers.timesteps": "levels_before_shift shifted",
    },
    "Guidance": {
        "longtake.guidance": "Guidance GuidanceSettings GuidanceState GuidedStep Branch "
        "CONDITIONAL UNCONDITIONAL AdaptiveProjectedGuidance ClassifierFreeGuidance "
        "EmbeddedGuidance GuidanceByExpert NoGuidance PerturbedAttentionGuidance "
        "SkipLayerGuidance",
    },
    "Layer reuse": {
        "longtake.reuse": "LayerReuse ReuseStep AccumulatedChange FirstBlockCache",
    },
    "Strategies": {
        "longtake.strategies": "ParallelStrategy PlannedStrategy StrategyCard SingleDevice "
        "DualParal SequenceParallel Layout Mesh Axis Workload Denoising Progress BlockQueue "
        "GuidedBlocks TaskForward Communicator",
        "longtake.plan.ir.actions": "Action",
        "longtake.plan.ir.rank_role": "RankRole",
        "longtake.plan.ir.schedule": "TaskActions post_ahead",
    },
    "Models": {
        "longtake.models": "ModelFamily ModelCard ModelFolder BackboneSpec Compression Defaults "
        "Placement register open_folder Backbone AnyBackbone Condition LayerContext Grid "
        "PromptStates Attend Operand Kernel AttentionKernel Positions Rotary TokenGroups "
        "ConditioningFrames GivenFrames VideoFrames VideoDecoder AnyDecoder",
    },
    "Helpers for models": {
        "longtake.models.loading.weights": "load_module",
        "longtake.models.loading.encoders": "load_encoder load_image_processor",
        "longtake.models.loading.tokenizers": "load_tokenizer",
        "longtake.models.text": "encode_with_pipeline join_prompts split_prompts",
        "longtake.models.layers.kernel": "attention_kernel attend_with made without_padding",
        "longtake.models.layers.rotary": "AxialRotary rotate",
        "longtake.models.layers.joint_attention": "count_padding",
        "longtake.models.layers.patches": "unpatchify unpatchify_channels_first",
        "longtake.models.layers.levels": "pieces in_pieces",
        "longtake.models.decoders.overlap": "OverlapDecoder TimeTiles fade",
    },
    "Contract suites and tests": {
        "longtake.testing.contracts": "AttentionKernelContract BackboneContract "
        "BlockSchedulerContract FeatureCacheContract FrameLevelsContract GuidanceContract "
        "LayerReuseContract NoiseInitContract ParallelStrategyContract "
        "SamplerContract VideoDecoderContract",
        "longtake.testing.ranks": "RankPool rank_pool",
        "longtake.testing.tiny.parts": "randomize word_tokenizer t5_encoder save_folder",
        "longtake.testing.tiny.base": "TinyCase",
        "longtake.testing.recording": "hidden_states",
        "longtake.testing.differences": "kind_of_difference",
    },
}
"""Public names by what they are for, and by the module that each is imported from."""

HOMES: Final[Mapping[str, str]] = {
    name: module
    for modules in GROUPS.values()
    for module, names in modules.items()
    for name in names.split()
}
"""The module of each public name."""

__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name where it is asked for."""
    if name not in HOMES:
        raise AttributeError(
            f"longtake.api has no {name}; the nearest public name is {nearest(name, HOMES)}."
        )
    found = globals()[name] = getattr(import_module(HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
