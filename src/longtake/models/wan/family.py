"""Wan 2.1 (1.3B, 14B), Wan 2.2 A14B and Wan 2.2 TI2V (5B) folders: text and image to video."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, final

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel
from typing_extensions import override

from longtake.errors import ModelError
from longtake.models.base import Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.conditioning import ConditioningFrames, GivenFrames
from longtake.models.defaults import Defaults
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import keep_layers, load_transformer, load_vae
from longtake.models.registry import ModelFamily, register
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.text import encode_with_pipeline
from longtake.models.wan.backbone import WanBackbone
from longtake.models.wan.decoder import WanDecoder
from longtake.models.wan.encoder import WanEncoder
from longtake.models.wan.given import blank_given, encode_given, needs_end, wan_start
from longtake.models.wan.lora_names import LORA_NAMES

_MAX_TOKENS = 512
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(WanTransformer3DModel.__init__).parameters.items()
}
"""What a configuration file may leave out."""


_card = partial(
    ModelCard,
    guidance="branches",
    decoder="exact",
    licence="apache-2.0",
)
"""What all of them have in common."""


@final
@register("WanPipeline", "WanImageToVideoPipeline")
class WanFamily(ModelFamily):
    """Wan: one transformer (2.1, 2.2 TI2V) or two experts (2.2 A14B), text or image to video."""

    layer_lists = ("blocks",)
    video_encoder = WanEncoder
    lora_names = LORA_NAMES
    transformer_class = WanTransformer3DModel
    cards = (
        _card(
            pipeline="WanPipeline",
            model="Wan 2.1",
            examples=(
                "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
                "Wan-AI/Wan2.1-T2V-14B-Diffusers",
            ),
            start="optional",
            timestep="clip",
            native_frames=21,
            defaults=Defaults(),
        ),
        _card(
            pipeline="WanPipeline",
            model="Wan 2.2 A14B",
            examples=("Wan-AI/Wan2.2-T2V-A14B-Diffusers",),
            start="optional",
            timestep="clip",
            native_frames=21,
            defaults=Defaults(
                steps=40, guidance_scale=4.0, guidance_scale_2=3.0, height=720, width=1280
            ),
        ),
        _card(
            pipeline="WanPipeline",
            model="Wan 2.2 TI2V",
            examples=("Wan-AI/Wan2.2-TI2V-5B-Diffusers",),
            start="optional",
            native=("start",),
            timestep="frame",
            native_frames=31,
            defaults=Defaults(height=704, width=1280, frames=121, fps=24),
        ),
        _card(
            pipeline="WanImageToVideoPipeline",
            model="Wan 2.1 I2V",
            examples=("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",),
            start="always",
            native=("start", "continue"),
            timestep="clip",
            native_frames=21,
            defaults=Defaults(),
        ),
        _card(
            pipeline="WanImageToVideoPipeline",
            model="Wan 2.1 FLF2V",
            examples=("Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers",),
            start="always",
            native=("start", "end"),
            timestep="clip",
            native_frames=21,
            defaults=Defaults(guidance_scale=5.5, height=720, width=1280),
        ),
        _card(
            pipeline="WanImageToVideoPipeline",
            model="Wan 2.2 I2V A14B",
            examples=("Wan-AI/Wan2.2-I2V-A14B-Diffusers",),
            start="always",
            native=("start", "end", "continue"),
            timestep="clip",
            native_frames=21,
            defaults=Defaults(steps=40, guidance_scale=3.5, height=720, width=1280),
        ),
    )

    @override
    def card(self, folder: ModelFolder) -> ModelCard:
        plain, experts, per_frame, image, between, image_experts = self.cards
        if folder.index.get("expand_timesteps"):
            return per_frame
        two = len(_experts(folder)) == 2
        if folder.pipeline == image.pipeline:
            one = between if folder.config("transformer").get("pos_embed_seq_len") else image
            return image_experts if two else one
        return experts if two else plain

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        per_frame = bool(folder.index.get("expand_timesteps"))  # Wan 2.2 TI2V
        experts, config = _experts(folder), _DEFAULTS | folder.config("transformer")
        boundary = folder.index.get("boundary_ratio")
        if (len(experts) == 2) != (boundary is not None):
            raise ModelError(
                f"{folder.path / 'model_index.json'} has {len(experts)} transformer(s) and "
                f"boundary_ratio {boundary}; two experts need a boundary, one must have none."
            )
        vae, channels = folder.config("vae"), config["out_channels"] or config["in_channels"]
        temporal = vae.get("scale_factor_temporal") or 4
        return BackboneSpec(
            name=f"{folder.path.name} ({folder.pipeline})",
            channels=channels,
            patch=tuple(config["patch_size"]),
            heads=config["num_attention_heads"],
            head_dim=config["attention_head_dim"],
            layers=config["num_layers"],
            native_frames=31 if per_frame else 21,
            compression=Compression(
                temporal=temporal,
                spatial=vae.get("scale_factor_spatial") or 8,
            ),
            experts=len(experts),
            boundary=boundary,
            frame_levels=True,
            moves_keys=True,
            train_timesteps=folder.config("scheduler").get("num_train_timesteps", 1000),
            timestep="frame" if per_frame else "clip",
            start=wan_start(folder, config, channels, temporal),
            native=self.card(folder).native,
            needs_end=needs_end(folder, config),
        )

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> WanBackbone:
        prune = partial(keep_wan_layers, layers=layers)
        experts = [
            load_transformer(folder, WanTransformer3DModel, place, prune, name)
            for name in _experts(folder)
        ]
        return WanBackbone(spec, experts, layers)

    @override
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> WanDecoder:
        place = Placement(device, dtype)
        build, without = AutoencoderKLWan.from_config, ("encoder", "quant_conv")
        return WanDecoder(load_vae(folder, build, place, without=without))

    @override
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        def encode(pipeline: Any, batch: list[str]) -> PromptStates:
            states, _ = pipeline.encode_prompt(
                batch,
                do_classifier_free_guidance=False,
                max_sequence_length=min(_MAX_TOKENS, pipeline.tokenizer.model_max_length),
                device=place.device,
            )
            return {"states": states}

        encoders = {"text_encoder": UMT5EncoderModel}
        return encode_with_pipeline(folder, prompts, WanPipeline, encoders, place, encode)

    @override
    def encode_given(
        self, folder: ModelFolder, spec: BackboneSpec, given: GivenFrames, place: Placement
    ) -> ConditioningFrames:
        if spec.start != "channels":
            return super().encode_given(folder, spec, given, place)
        return encode_given(folder, spec, given, place.device)

    @override
    def blank_start(
        self, folder: ModelFolder, spec: BackboneSpec, height: int, width: int
    ) -> ConditioningFrames | None:
        if spec.start != "channels":
            return None
        return blank_given(folder, spec, height, width)


def keep_wan_layers(transformer: Any, layers: Collection[int]) -> None:
    """Take everything out of a transformer that a rank with only some of the layers lacks."""
    del transformer.rope  # positions are our own: absolute, and of any length
    keep_layers(
        transformer,
        layers,
        lists=("blocks",),
        first=("patch_embedding",),
        last=("proj_out", "norm_out", "scale_shift_table"),
    )


def _experts(folder: ModelFolder) -> list[str]:
    return [name for name in ("transformer", "transformer_2") if folder.has(name)]
