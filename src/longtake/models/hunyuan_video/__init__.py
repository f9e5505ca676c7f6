"""HunyuanVideo: backbone, overlapping decoder, folder layout."""

from longtake.models.hunyuan_video.backbone import HunyuanVideoBackbone
from longtake.models.hunyuan_video.decoder import hunyuan_video_decoder
from longtake.models.hunyuan_video.family import HunyuanVideoFamily

__all__ = ["HunyuanVideoBackbone", "HunyuanVideoFamily", "hunyuan_video_decoder"]
