"""HunyuanVideo 1.5: backbone, streaming decoder, folder layout."""

from longtake.models.hunyuan_video15.backbone import HunyuanVideo15Backbone
from longtake.models.hunyuan_video15.decoder import HunyuanVideo15Decoder
from longtake.models.hunyuan_video15.family import HunyuanVideo15Family

__all__ = ["HunyuanVideo15Backbone", "HunyuanVideo15Decoder", "HunyuanVideo15Family"]
