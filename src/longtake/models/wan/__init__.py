"""Wan 2.1 and 2.2: backbone, streaming decoder, folder layout."""

from longtake.models.wan.backbone import WanBackbone
from longtake.models.wan.decoder import WanDecoder
from longtake.models.wan.family import WanFamily

__all__ = ["WanBackbone", "WanDecoder", "WanFamily"]
