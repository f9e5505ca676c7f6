"""LTX-Video folders since 0.9.5: text and image to video, dev and distilled models."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final, final

import torch
from diffusers import LTXConditionPipeline, LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule
from typing_extensions import override

from longtake.models.base import Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.defaults import Defaults
from longtake.models.loading.config import with_defaults
from longtake.models.loading.folder import ModelFolder
from longtake.models.ltx.backbone import LTXBackbone
from longtake.models.ltx.decoder import LTXDecoder
from longtake.models.ltx.encoder import LTXEncoder
from longtake.models.ltx.family import (
    LTXFamily,
    blank,
    encode_prompts,
    load_decoding_vae,
    load_transformer,
)
from longtake.models.ltx.lora_names import LORA_NAMES
from longtake.models.registry import ModelFamily, register
from longtake.models.spec import BackboneSpec

_PIPELINE: Final = "LTXConditionPipeline"
_TEXT_TOKENS: Final = 256
"""Tokens of a prompt, padding included: what the pipeline asks for."""
_SMALL: Final = 28
"""Layers of the models of 2B."""
_DECODE_TIMESTEP: Final = 0.05
_DECODE_NOISE: Final = 0.025
"""What these models' decoders are published with; the pipeline leaves both to its callers."""
_DEFAULTS: Final = Defaults(guidance_scale=3.0, height=512, width=704, frames=161, fps=25)


def _card(model: str, *examples: str, steps: int, guidance: float) -> ModelCard:
    return ModelCard(
        pipeline=_PIPELINE,
        model=model,
        examples=examples,
        start="optional",
        native=("start",),
        guidance="branches",
        timestep="frame",
        native_frames=21,
        decoder="exact",
        licence="ltx-video-open-weights",
        defaults=replace(_DEFAULTS, steps=steps, guidance_scale=guidance),
    )


@final
@register(_PIPELINE)
class LTXConditionFamily(ModelFamily):
    """LTX-Video 0.9.5 to 0.9.8.

    What differs from the versions before: a video's first latent frame counts as one video frame
    in positions, noise levels fall slowly at first and then fast (which makes the eight steps of
    the distilled models those that they were trained at), prompts have more tokens and their
    encoder does not see the padding, and the decoder does a last step of denoising. Keyframes that
    are appended as tokens of their own are not given.
    """

    layer_lists = ("transformer_blocks",)
    video_encoder = LTXEncoder
    lora_names = LORA_NAMES
    transformer_class = LTXVideoTransformer3DModel
    cards = (
        _card("LTX-Video 0.9.5", "Lightricks/LTX-Video-0.9.5", steps=50, guidance=3.0),
        _card("LTX-Video 0.9.7 13B", "Lightricks/LTX-Video-0.9.7-dev", steps=30, guidance=5.0),
        _card(
            "LTX-Video 13B, distilled",
            "Lightricks/LTX-Video-0.9.7-distilled",
            "Lightricks/LTX-Video-0.9.8-13B-distilled",
            steps=8,
            guidance=1.0,
        ),
    )

    @override
    def card(self, folder: ModelFolder) -> ModelCard:
        named = super().card(folder)
        config = with_defaults(LTXVideoTransformer3DModel, folder.config("transformer"))
        if folder.hub_id in named.examples or config["num_layers"] <= _SMALL:
            return named
        return self.cards[1]  # a folder's files do not say whether it is distilled

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        return replace(LTXFamily().spec(folder), native=self.card(folder).native)

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> LTXBackbone:
        transformer = load_transformer(folder, layers, place)
        return LTXBackbone(spec, transformer, layers, lead=spec.compression.temporal - 1)

    @override
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> LTXDecoder:
        vae = load_decoding_vae(folder, Placement(device, dtype))
        return LTXDecoder(vae, _DECODE_TIMESTEP, _DECODE_NOISE)

    @override
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        return encode_prompts(folder, prompts, place, LTXConditionPipeline, _TEXT_TOKENS)

    @override
    def blank_prompts(self, folder: ModelFolder, spec: BackboneSpec) -> PromptStates:
        return blank(folder, _TEXT_TOKENS)

    @override
    def sigmas(self, steps: int) -> list[float]:
        return [float(sigma) for sigma in linear_quadratic_schedule(steps)]
