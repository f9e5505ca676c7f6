"""Guidance: which forwards a task makes beside the prompt's, and what joins their predictions."""

from longtake.guidance.adaptive_projected import AdaptiveProjectedGuidance
from longtake.guidance.base import (
    CONDITIONAL,
    UNCONDITIONAL,
    Branch,
    Guidance,
    GuidanceChoice,
    GuidanceSettings,
    GuidanceState,
    GuidedStep,
)
from longtake.guidance.by_expert import GuidanceByExpert
from longtake.guidance.classifier_free import ClassifierFreeGuidance
from longtake.guidance.embedded import EmbeddedGuidance
from longtake.guidance.none import NoGuidance
from longtake.guidance.perturbed import PerturbedAttentionGuidance, SkipLayerGuidance

__all__ = [
    "CONDITIONAL",
    "UNCONDITIONAL",
    "AdaptiveProjectedGuidance",
    "Branch",
    "ClassifierFreeGuidance",
    "EmbeddedGuidance",
    "Guidance",
    "GuidanceByExpert",
    "GuidanceChoice",
    "GuidanceSettings",
    "GuidanceState",
    "GuidedStep",
    "NoGuidance",
    "PerturbedAttentionGuidance",
    "SkipLayerGuidance",
]
