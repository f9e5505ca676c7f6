"""LTX-Video: backbone, positions, decoder that looks ahead, folder layout."""

from longtake.models.ltx.backbone import LTXBackbone
from longtake.models.ltx.condition import LTXConditionFamily
from longtake.models.ltx.decoder import LTXDecoder
from longtake.models.ltx.family import LTXFamily
from longtake.models.ltx.positions import LTXPositions

__all__ = ["LTXBackbone", "LTXConditionFamily", "LTXDecoder", "LTXFamily", "LTXPositions"]
