"""Models: diffusion transformers and VAEs behind one contract each, one family per folder."""

from longtake.models import hunyuan_video as hunyuan_video
from longtake.models import wan as wan
from longtake.models.base import (
    AnyBackbone,
    AnyDecoder,
    Attend,
    Backbone,
    Condition,
    Grid,
    LayerContext,
    Placement,
    Positions,
    PromptStates,
    Rotary,
    VideoDecoder,
)
from longtake.models.folder import ModelFolder, open_folder
from longtake.models.registry import ModelFamily, family_of, register, registered
from longtake.models.sampler import BlockSampler, Sampler, load_sampler, load_scheduler
from longtake.models.spec import BackboneSpec, Compression

__all__ = [
    "AnyBackbone",
    "AnyDecoder",
    "Attend",
    "Backbone",
    "BackboneSpec",
    "BlockSampler",
    "Compression",
    "Condition",
    "Grid",
    "LayerContext",
    "ModelFamily",
    "ModelFolder",
    "Placement",
    "Positions",
    "PromptStates",
    "Rotary",
    "Sampler",
    "VideoDecoder",
    "family_of",
    "load_sampler",
    "load_scheduler",
    "open_folder",
    "register",
    "registered",
]
