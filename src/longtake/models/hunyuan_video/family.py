"""HunyuanVideo folders: text to video."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, final

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from transformers import CLIPTextModel, LlamaModel
from typing_extensions import override

from longtake.errors import ModelError
from longtake.models.base import Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.decoders.overlap import OverlapDecoder
from longtake.models.defaults import Defaults
from longtake.models.hunyuan_video.backbone import HunyuanVideoBackbone
from longtake.models.hunyuan_video.decoder import hunyuan_video_decoder
from longtake.models.hunyuan_video.lora_names import LORA_NAMES
from longtake.models.loading.config import prompt_shape, with_defaults
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import keep_layers, load_vae
from longtake.models.loading.weights import load_module
from longtake.models.registry import ModelFamily, register
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.text import encode_with_pipeline

_TEXT_TOKENS = 256
"""Tokens of a prompt, padding included: what the pipeline asks for."""


@final
@register("HunyuanVideoPipeline")
class HunyuanVideoFamily(ModelFamily):
    """Text-to-video HunyuanVideo."""

    layer_lists = ("transformer_blocks", "single_transformer_blocks")
    lora_names = LORA_NAMES
    transformer_class = HunyuanVideoTransformer3DModel
    cards = (
        ModelCard(
            pipeline="HunyuanVideoPipeline",
            model="HunyuanVideo",
            examples=("hunyuanvideo-community/HunyuanVideo",),
            start="none",
            guidance="either",
            timestep="clip",
            native_frames=33,
            decoder="overlap",
            licence="tencent-hunyuan-community",
            defaults=Defaults(guidance_scale=6.0, height=720, width=1280, frames=129, fps=24),
        ),
    )

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        config = with_defaults(HunyuanVideoTransformer3DModel, folder.config("transformer"))
        if config["image_condition_type"] is not None:
            raise ModelError(
                f"{folder.path} is HunyuanVideo with an image condition "
                f"({config['image_condition_type']}); text-to-video folders can be run."
            )
        vae = with_defaults(AutoencoderKLHunyuanVideo, folder.config("vae"))
        return BackboneSpec(
            name=f"{folder.path.name} ({folder.pipeline})",
            channels=config["in_channels"],
            patch=(config["patch_size_t"], config["patch_size"], config["patch_size"]),
            heads=config["num_attention_heads"],
            head_dim=config["attention_head_dim"],
            layers=config["num_layers"] + config["num_single_layers"],
            native_frames=33,
            compression=Compression(
                temporal=vae["temporal_compression_ratio"],
                spatial=vae["spatial_compression_ratio"],
            ),
            moves_keys=True,
            train_timesteps=folder.config("scheduler").get("num_train_timesteps", 1000),
            text_tokens=_TEXT_TOKENS,
            guidance="embedded" if config["guidance_embeds"] else "branches",
        )

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> HunyuanVideoBackbone:
        def prune(transformer: Any) -> None:
            del transformer.rope  # positions are our own: absolute, and of any length
            keep_layers(
                transformer,
                layers,
                lists=self.layer_lists,
                first=("x_embedder", "context_embedder"),
                last=("norm_out", "proj_out"),
            )

        build = HunyuanVideoTransformer3DModel.from_config
        keep_fp32 = HunyuanVideoTransformer3DModel._keep_in_fp32_modules or ()
        transformer = load_module(
            folder, "transformer", build, place, keep_fp32=keep_fp32, prune=prune
        )
        return HunyuanVideoBackbone(spec, transformer, layers)

    @override
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> OverlapDecoder:
        place, build = Placement(device, dtype), AutoencoderKLHunyuanVideo.from_config
        return hunyuan_video_decoder(
            load_vae(folder, build, place, without=("encoder", "quant_conv"))
        )

    @override
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        def encode(pipeline: Any, batch: list[str]) -> PromptStates:
            states, pooled, mask = pipeline.encode_prompt(
                batch, device=place.device, max_sequence_length=_TEXT_TOKENS
            )
            return {"states": states, "pooled": pooled, "mask": mask.bool()}

        encoders = {"text_encoder": LlamaModel, "text_encoder_2": CLIPTextModel}
        return encode_with_pipeline(folder, prompts, HunyuanVideoPipeline, encoders, place, encode)

    @override
    def blank_prompts(self, folder: ModelFolder, spec: BackboneSpec) -> PromptStates:
        _, width = prompt_shape(folder)
        _, pooled = prompt_shape(folder, "text_encoder_2")
        return {
            "states": torch.empty(1, _TEXT_TOKENS, width),
            "pooled": torch.empty(1, pooled),
            "mask": torch.ones(1, _TEXT_TOKENS, dtype=torch.bool),
        }

    @override
    def sigmas(self, steps: int) -> list[float]:
        return [1 - step / steps for step in range(steps)]
