"""SkyReels-V2: Wan's layers, trained with a noise level per frame (diffusion forcing)."""

from longtake.models.skyreels_v2.backbone import skyreels_v2_backbone
from longtake.models.skyreels_v2.family import SkyReelsV2Family

__all__ = ["SkyReelsV2Family", "skyreels_v2_backbone"]
