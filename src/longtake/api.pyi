"""Made by tools/public_api.py."""

from collections.abc import Mapping
from typing import Final

from longtake.caches import (
    AnchorKV as AnchorKV,
    Entry as Entry,
    FeatureCache as FeatureCache,
    Forward as Forward,
    Held as Held,
    Kept as Kept,
    NextBlockKV as NextBlockKV,
    NoCache as NoCache,
    Read as Read,
    RollingKV as RollingKV,
    SameStepKV as SameStepKV,
    Window as Window,
    forwards as forwards,
)
from longtake.errors import (
    ConfigurationError as ConfigurationError,
    LongtakeError as LongtakeError,
    ModelError as ModelError,
    NoPlan as NoPlan,
    NumbersError as NumbersError,
    OutputError as OutputError,
    RankFailure as RankFailure,
)
from longtake.framework import (
    Engine as Engine,
    Event as Event,
    ExitReason as ExitReason,
    FramesDecoded as FramesDecoded,
    GenerationConfig as GenerationConfig,
    Keyframe as Keyframe,
    PromptAt as PromptAt,
    Request as Request,
    RequestEnded as RequestEnded,
    RequestStarted as RequestStarted,
)
from longtake.framework.callbacks import (
    LongtakeCallback as LongtakeCallback,
    VideoWriter as VideoWriter,
)
from longtake.framework.data import (
    PromptData as PromptData,
)
from longtake.framework.module import (
    VideoModule as VideoModule,
)
from longtake.framework.trainer import (
    InferenceTrainer as InferenceTrainer,
)
from longtake.framework.writers import (
    FrameWriter as FrameWriter,
    VideoFormat as VideoFormat,
    VideoShape as VideoShape,
    frame_writer as frame_writer,
)
from longtake.guidance import (
    AdaptiveProjectedGuidance as AdaptiveProjectedGuidance,
    Branch as Branch,
    CONDITIONAL as CONDITIONAL,
    ClassifierFreeGuidance as ClassifierFreeGuidance,
    EmbeddedGuidance as EmbeddedGuidance,
    Guidance as Guidance,
    GuidanceByExpert as GuidanceByExpert,
    GuidanceSettings as GuidanceSettings,
    GuidanceState as GuidanceState,
    GuidedStep as GuidedStep,
    NoGuidance as NoGuidance,
    PerturbedAttentionGuidance as PerturbedAttentionGuidance,
    SkipLayerGuidance as SkipLayerGuidance,
    UNCONDITIONAL as UNCONDITIONAL,
)
from longtake.models import (
    AnyBackbone as AnyBackbone,
    AnyDecoder as AnyDecoder,
    Attend as Attend,
    AttentionKernel as AttentionKernel,
    Backbone as Backbone,
    BackboneSpec as BackboneSpec,
    BlockSampler as BlockSampler,
    Compression as Compression,
    Condition as Condition,
    ConditioningFrames as ConditioningFrames,
    Defaults as Defaults,
    DiffusersSampler as DiffusersSampler,
    DiffusersScheduler as DiffusersScheduler,
    GivenFrames as GivenFrames,
    Grid as Grid,
    Kernel as Kernel,
    LayerContext as LayerContext,
    ModelCard as ModelCard,
    ModelFamily as ModelFamily,
    ModelFolder as ModelFolder,
    Operand as Operand,
    Placement as Placement,
    Positions as Positions,
    PromptStates as PromptStates,
    Rotary as Rotary,
    Sampler as Sampler,
    SamplerSettings as SamplerSettings,
    SamplerState as SamplerState,
    TokenGroups as TokenGroups,
    VideoDecoder as VideoDecoder,
    VideoFrames as VideoFrames,
    load_sampler as load_sampler,
    load_scheduler as load_scheduler,
    open_folder as open_folder,
    register as register,
)
from longtake.models.decoders.overlap import (
    OverlapDecoder as OverlapDecoder,
    TimeTiles as TimeTiles,
    fade as fade,
)
from longtake.models.layers.joint_attention import (
    count_padding as count_padding,
)
from longtake.models.layers.kernel import (
    attend_with as attend_with,
    attention_kernel as attention_kernel,
    made as made,
    without_padding as without_padding,
)
from longtake.models.layers.levels import (
    in_pieces as in_pieces,
    pieces as pieces,
)
from longtake.models.layers.patches import (
    unpatchify as unpatchify,
    unpatchify_channels_first as unpatchify_channels_first,
)
from longtake.models.layers.rotary import (
    AxialRotary as AxialRotary,
    rotate as rotate,
)
from longtake.models.loading.encoders import (
    load_encoder as load_encoder,
    load_image_processor as load_image_processor,
)
from longtake.models.loading.tokenizers import (
    load_tokenizer as load_tokenizer,
)
from longtake.models.loading.weights import (
    load_module as load_module,
)
from longtake.models.samplers.timesteps import (
    levels_before_shift as levels_before_shift,
    shifted as shifted,
)
from longtake.models.text import (
    encode_with_pipeline as encode_with_pipeline,
    join_prompts as join_prompts,
    split_prompts as split_prompts,
)
from longtake.noise import (
    FreeNoise as FreeNoise,
    Independent as Independent,
    NoiseInit as NoiseInit,
    NoiseSource as NoiseSource,
    SharedPool as SharedPool,
    StepNoise as StepNoise,
)
from longtake.plan.ir.actions import (
    Action as Action,
)
from longtake.plan.ir.rank_role import (
    RankRole as RankRole,
)
from longtake.plan.ir.schedule import (
    TaskActions as TaskActions,
    post_ahead as post_ahead,
)
from longtake.plugins import (
    CONTRACT_VERSION as CONTRACT_VERSION,
)
from longtake.reuse import (
    AccumulatedChange as AccumulatedChange,
    FirstBlockCache as FirstBlockCache,
    LayerReuse as LayerReuse,
    ReuseStep as ReuseStep,
)
from longtake.schedulers import (
    Autoregressive as Autoregressive,
    BlockScheduler as BlockScheduler,
    CascadeQueue as CascadeQueue,
    ContextWindows as ContextWindows,
    DiffusionForcing as DiffusionForcing,
    Extend as Extend,
    FifoQueue as FifoQueue,
    FrameQueue as FrameQueue,
    FullSequence as FullSequence,
    MethodCard as MethodCard,
    RollingWindow as RollingWindow,
)
from longtake.strategies import (
    ActionDone as ActionDone,
    Axis as Axis,
    BlockDone as BlockDone,
    BlockQueue as BlockQueue,
    Communicator as Communicator,
    Denoising as Denoising,
    DualParal as DualParal,
    GuidedBlocks as GuidedBlocks,
    Layout as Layout,
    Mesh as Mesh,
    ParallelStrategy as ParallelStrategy,
    PlannedStrategy as PlannedStrategy,
    Progress as Progress,
    SequenceParallel as SequenceParallel,
    SingleDevice as SingleDevice,
    StrategyCard as StrategyCard,
    TaskDone as TaskDone,
    TaskForward as TaskForward,
    Workload as Workload,
)
from longtake.task import (
    Enter as Enter,
    FrameRange as FrameRange,
    Frames as Frames,
    Run as Run,
    Seen as Seen,
    Task as Task,
    Video as Video,
)
from longtake.testing.contracts import (
    AttentionKernelContract as AttentionKernelContract,
    BackboneContract as BackboneContract,
    BlockSchedulerContract as BlockSchedulerContract,
    FeatureCacheContract as FeatureCacheContract,
    FrameLevelsContract as FrameLevelsContract,
    GuidanceContract as GuidanceContract,
    LayerReuseContract as LayerReuseContract,
    NoiseInitContract as NoiseInitContract,
    ParallelStrategyContract as ParallelStrategyContract,
    SamplerContract as SamplerContract,
    VideoDecoderContract as VideoDecoderContract,
)
from longtake.testing.differences import (
    kind_of_difference as kind_of_difference,
)
from longtake.testing.ranks import (
    RankPool as RankPool,
    rank_pool as rank_pool,
)
from longtake.testing.recording import (
    hidden_states as hidden_states,
)
from longtake.testing.tiny.base import (
    TinyCase as TinyCase,
)
from longtake.testing.tiny.parts import (
    randomize as randomize,
    save_folder as save_folder,
    t5_encoder as t5_encoder,
    word_tokenizer as word_tokenizer,
)

GROUPS: Final[Mapping[str, Mapping[str, str]]]
HOMES: Final[Mapping[str, str]]
__all__: list[str]
