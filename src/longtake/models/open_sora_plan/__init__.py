"""Open-Sora-Plan 1.3: its transformer under the published weight names, backbone, folder layout."""

from longtake.models.open_sora_plan.backbone import OpenSoraPlanBackbone
from longtake.models.open_sora_plan.config import OpenSoraPlanConfig
from longtake.models.open_sora_plan.convert import convert, convert_folder
from longtake.models.open_sora_plan.family import OpenSoraPlanFamily
from longtake.models.open_sora_plan.transformer import OpenSoraPlanTransformer

__all__ = [
    "OpenSoraPlanBackbone",
    "OpenSoraPlanConfig",
    "OpenSoraPlanFamily",
    "OpenSoraPlanTransformer",
    "convert",
    "convert_folder",
]
