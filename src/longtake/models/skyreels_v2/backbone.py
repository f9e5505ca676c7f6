"""SkyReels-V2 backbone: Wan's, with the frame rate beside the timestep."""

from __future__ import annotations

from collections.abc import Collection

import torch
from diffusers import SkyReelsV2Transformer3DModel
from torch import Tensor

from longtake.models.spec import BackboneSpec
from longtake.models.wan import WanBackbone

_FULL_ATTENTION = {"attention_mask": None}
"""What the layers take besides Wan's arguments: frames may see all frames of their window."""

_CLASSES = {16: 0}
"""Class of a frame rate, by frames per second."""
_OTHERS = 1
"""Class of every other one; the pipelines' videos have 24."""


def skyreels_v2_backbone(
    spec: BackboneSpec, transformer: SkyReelsV2Transformer3DModel, layers: Collection[int]
) -> WanBackbone:
    """Return a SkyReels-V2 transformer as a backbone.

    Args:
        spec: From the configuration.
        transformer: With only its own layers.
        layers: The layers that are here.
    """
    if not transformer.config.inject_sample_info:
        return WanBackbone(spec, [transformer], layers, layer_arguments=_FULL_ATTENTION)
    at = {fps: _frame_rate(transformer, kind) for fps, kind in _CLASSES.items()}
    added = _frame_rate(transformer, _OTHERS)
    return WanBackbone(spec, [transformer], layers, added, _FULL_ATTENTION, at)


@torch.no_grad()
def _frame_rate(transformer: SkyReelsV2Transformer3DModel, kind: int) -> Tensor:
    """Return what a class of frame rates adds to every level's modulation, ``(1, 6, M)``."""
    device = transformer.fps_embedding.weight.device
    embedding = transformer.fps_embedding(torch.tensor([kind], device=device))
    modulation: Tensor = transformer.fps_projection(embedding).unflatten(1, (6, -1))
    return modulation
