"""Mochi: backbone, positions, causal decoder, folder layout."""

from longtake.models.mochi.backbone import MochiBackbone
from longtake.models.mochi.decoder import MochiDecoder
from longtake.models.mochi.family import MochiFamily
from longtake.models.mochi.positions import MochiPositions

__all__ = ["MochiBackbone", "MochiDecoder", "MochiFamily", "MochiPositions"]
