"""CogVideoX: backbone, positions, causal decoder, folder layout."""

from longtake.models.cogvideox.backbone import CogVideoXBackbone
from longtake.models.cogvideox.decoder import CogVideoXDecoder
from longtake.models.cogvideox.family import CogVideoXFamily
from longtake.models.cogvideox.pairs import PairsDecoder, before_the_video, paired, unpaired
from longtake.models.cogvideox.positions import CogVideoXRotary, CogVideoXWaves

__all__ = [
    "CogVideoXBackbone",
    "CogVideoXDecoder",
    "CogVideoXFamily",
    "CogVideoXRotary",
    "CogVideoXWaves",
    "PairsDecoder",
    "before_the_video",
    "paired",
    "unpaired",
]
