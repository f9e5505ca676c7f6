"""Models: diffusion transformers and VAEs behind one contract each, one family per folder."""

from longtake.models import cogvideox as cogvideox
from longtake.models import hunyuan_video as hunyuan_video
from longtake.models import hunyuan_video15 as hunyuan_video15
from longtake.models import kandinsky5 as kandinsky5
from longtake.models import ltx as ltx
from longtake.models import mochi as mochi
from longtake.models import open_sora_plan as open_sora_plan
from longtake.models import skyreels_v2 as skyreels_v2
from longtake.models import wan as wan
from longtake.models.base import (
    AnyBackbone,
    AnyDecoder,
    Attend,
    Backbone,
    Condition,
    Grid,
    Kernel,
    LayerContext,
    Operand,
    Placement,
    Positions,
    PromptStates,
    Rotary,
    VideoDecoder,
    WeightFormat,
)
from longtake.models.card import ModelCard
from longtake.models.conditioning import ConditioningFrames, GivenFrames
from longtake.models.conditioning_kinds import KINDS, ConditioningKind, Honoured
from longtake.models.defaults import Defaults
from longtake.models.layers.attention_kernel import AttentionKernel
from longtake.models.layers.groups import TokenGroups
from longtake.models.loading.folder import ModelFolder, open_folder, open_for_plan
from longtake.models.loading.lora import Lora
from longtake.models.registry import ModelFamily, family_of, register, registered
from longtake.models.samplers.base import (
    BlockSampler,
    Sampler,
    SamplerChoice,
    SamplerSettings,
    SamplerState,
)
from longtake.models.samplers.diffusers_sampler import DiffusersSampler
from longtake.models.samplers.known_frames import KnownFrames
from longtake.models.samplers.loading import (
    applied_shift,
    load_sampler,
    load_scheduler,
    sampler_name,
)
from longtake.models.samplers.scheduler_options import DiffusersScheduler
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.video_frames import VideoFrames

__all__ = [
    "KINDS",
    "AnyBackbone",
    "AnyDecoder",
    "Attend",
    "AttentionKernel",
    "Backbone",
    "BackboneSpec",
    "BlockSampler",
    "Compression",
    "Condition",
    "ConditioningFrames",
    "ConditioningKind",
    "Defaults",
    "DiffusersSampler",
    "DiffusersScheduler",
    "GivenFrames",
    "Grid",
    "Honoured",
    "Kernel",
    "KnownFrames",
    "LayerContext",
    "Lora",
    "ModelCard",
    "ModelFamily",
    "ModelFolder",
    "Operand",
    "Placement",
    "Positions",
    "PromptStates",
    "Rotary",
    "Sampler",
    "SamplerChoice",
    "SamplerSettings",
    "SamplerState",
    "TokenGroups",
    "VideoDecoder",
    "VideoFrames",
    "WeightFormat",
    "applied_shift",
    "family_of",
    "load_sampler",
    "load_scheduler",
    "open_folder",
    "open_for_plan",
    "register",
    "registered",
    "sampler_name",
]
