"""Wan 2.1 (1.3B, 14B) and Wan 2.2 A14B folders: text to video."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import Any, final

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from torch import nn
from transformers import UMT5EncoderModel
from typing_extensions import override

from longtake.errors import ModelError
from longtake.models.base import Placement, PromptStates
from longtake.models.folder import ModelFolder
from longtake.models.registry import ModelFamily, register
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.text import encode_with_pipeline
from longtake.models.wan.backbone import WanBackbone
from longtake.models.wan.decoder import WanDecoder
from longtake.models.weights import load_module

_MAX_TOKENS = 512
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(WanTransformer3DModel.__init__).parameters.items()
}
"""What a configuration file may leave out."""


@final
@register("WanPipeline")
class WanFamily(ModelFamily):
    """Text-to-video Wan: one transformer (2.1) or two experts (2.2 A14B)."""

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        if folder.index.get("expand_timesteps"):
            raise ModelError(
                f"{folder.path} is Wan 2.2 TI2V (expand_timesteps), whose timesteps differ per "
                f"token; WanPipeline folders without it can be run (Wan 2.1 T2V, Wan 2.2 A14B)."
            )
        experts, config = _experts(folder), _DEFAULTS | folder.config("transformer")
        boundary = folder.index.get("boundary_ratio")
        if (len(experts) == 2) != (boundary is not None):
            raise ModelError(
                f"{folder.path / 'model_index.json'} has {len(experts)} transformer(s) and "
                f"boundary_ratio {boundary}; two experts need a boundary, one must have none."
            )
        vae = folder.config("vae")
        return BackboneSpec(
            name=f"{folder.path.name} ({folder.pipeline})",
            channels=config["in_channels"],
            patch=tuple(config["patch_size"]),
            heads=config["num_attention_heads"],
            head_dim=config["attention_head_dim"],
            layers=config["num_layers"],
            native_frames=21,
            compression=Compression(
                temporal=vae.get("scale_factor_temporal") or 4,
                spatial=vae.get("scale_factor_spatial") or 8,
            ),
            experts=len(experts),
            boundary=boundary,
            train_timesteps=folder.config("scheduler").get("num_train_timesteps", 1000),
        )

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> WanBackbone:
        def prune(transformer: Any) -> None:
            del transformer.rope  # positions are our own: absolute, and of any length
            for index in set(range(spec.layers)).difference(layers):
                transformer.blocks[index] = nn.Identity()
            if 0 not in layers:
                del transformer.patch_embedding
            if spec.layers - 1 not in layers:
                del transformer.proj_out, transformer.norm_out, transformer.scale_shift_table

        experts = [
            load_module(
                folder,
                name,
                WanTransformer3DModel.from_config,
                place,
                keep_fp32=WanTransformer3DModel._keep_in_fp32_modules,
                prune=prune,
            )
            for name in _experts(folder)
        ]
        return WanBackbone(spec, experts, layers)

    @override
    def load_decoder(self, folder: ModelFolder, device: torch.device) -> WanDecoder:
        def prune(vae: Any) -> None:
            vae.encoder = vae.quant_conv = nn.Identity()

        place = Placement(device, torch.float32)
        return WanDecoder(
            load_module(folder, "vae", AutoencoderKLWan.from_config, place, prune=prune)
        )

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


def _experts(folder: ModelFolder) -> list[str]:
    return [name for name in ("transformer", "transformer_2") if folder.has(name)]
