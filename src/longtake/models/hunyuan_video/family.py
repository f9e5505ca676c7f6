"""HunyuanVideo folders: text to video and image to video."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, final

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from torch import Tensor
from transformers import CLIPTextModel, LlamaModel
from typing_extensions import override

from longtake.errors import ModelError
from longtake.models.base import Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.conditioning import ConditioningFrames, GivenFrames
from longtake.models.decoders.overlap import OverlapDecoder
from longtake.models.defaults import Defaults
from longtake.models.hunyuan_video.backbone import HunyuanVideoBackbone
from longtake.models.hunyuan_video.decoder import load_decoder
from longtake.models.hunyuan_video.encoder import HunyuanVideoEncoder
from longtake.models.hunyuan_video.image_channels import image_channels
from longtake.models.hunyuan_video.lora_names import LORA_NAMES
from longtake.models.hunyuan_video.picture_prompts import (
    TEXT_TOKENS,
    blank_prompt,
    encode_beside_pictures,
    text_tokens,
)
from longtake.models.loading.config import prompt_shape, with_defaults
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import keep_layers, load_transformer
from longtake.models.registry import ModelFamily, register
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.text import encode_with_pipeline

_IMAGE: Final = "HunyuanVideoImageToVideoPipeline"
_STARTS: Final[dict[str | None, Literal["replaced", "given", "channels"]]] = {
    None: "replaced",
    "token_replace": "given",
    "latent_concat": "channels",
}
"""How a video begins with given frames, by the transformer's ``image_condition_type``."""
_DEFAULTS: Final = Defaults(guidance_scale=6.0, height=720, width=1280, frames=129, fps=24)


_card = partial(
    ModelCard,
    guidance="either",
    timestep="clip",
    native_frames=33,
    decoder="overlap",
    licence="tencent-hunyuan-community",
)
"""What all of them have in common."""


@final
@register("HunyuanVideoPipeline", _IMAGE)
class HunyuanVideoFamily(ModelFamily):
    """HunyuanVideo from text, or from an image: the VAE's latents, and Llava's view of it."""

    layer_lists = ("transformer_blocks", "single_transformer_blocks")
    video_encoder = HunyuanVideoEncoder
    lora_names = LORA_NAMES
    transformer_class = HunyuanVideoTransformer3DModel
    cards = (
        _card(
            pipeline="HunyuanVideoPipeline",
            model="HunyuanVideo",
            examples=("hunyuanvideo-community/HunyuanVideo",),
            start="optional",
            defaults=_DEFAULTS,
        ),
        _card(
            pipeline=_IMAGE,
            model="HunyuanVideo I2V",
            examples=("hunyuanvideo-community/HunyuanVideo-I2V",),
            start="always",
            native=("start",),
            first_only=True,
            defaults=_DEFAULTS,
        ),
        _card(
            pipeline=_IMAGE,
            model="HunyuanVideo I2V, 33 channels",
            examples=("hunyuanvideo-community/HunyuanVideo-I2V-33ch",),
            start="always",
            native=("start",),
            defaults=replace(_DEFAULTS, guidance_scale=1.0),
        ),
    )

    @override
    def card(self, folder: ModelFolder) -> ModelCard:
        plain, replaced, concatenated = self.cards
        if folder.pipeline == plain.pipeline:
            return plain
        return replaced if _condition(folder) == "token_replace" else concatenated

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        config = with_defaults(HunyuanVideoTransformer3DModel, folder.config("transformer"))
        vae = with_defaults(AutoencoderKLHunyuanVideo, folder.config("vae"))
        condition, channels = config["image_condition_type"], vae["latent_channels"]
        inputs = 2 * channels + 1 if condition == "latent_concat" else channels
        image = folder.pipeline == _IMAGE
        if (condition is not None) != image or config["in_channels"] != inputs:
            raise ModelError(
                f"{folder.path} is a {folder.pipeline} whose transformer has the image condition "
                f"{condition} and {config['in_channels']} input channels; that of a {_IMAGE} has "
                f"latent_concat and {2 * channels + 1}, or token_replace and {channels}, that of a "
                f"HunyuanVideoPipeline none and {channels}."
            )
        return BackboneSpec(
            name=f"{folder.path.name} ({folder.pipeline})",
            channels=channels,
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
            text_tokens=text_tokens(condition) if image else TEXT_TOKENS,
            guidance="embedded" if config["guidance_embeds"] else "branches",
            start=_STARTS[condition],
            native=self.card(folder).native,
            image_in_noise=0.001 if image else 0.0,
            reads_picture=image,
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

        transformer = load_transformer(folder, HunyuanVideoTransformer3DModel, place, prune)
        return HunyuanVideoBackbone(spec, transformer, layers)

    @override
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> OverlapDecoder:
        return load_decoder(folder, device, dtype)

    @override
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        if folder.pipeline == _IMAGE:
            return self.encode_text_with_pictures(folder, prompts, [None] * len(prompts), place)

        def encode(pipeline: Any, batch: list[str]) -> PromptStates:
            states, pooled, mask = pipeline.encode_prompt(
                batch, device=place.device, max_sequence_length=TEXT_TOKENS
            )
            return {"states": states, "pooled": pooled, "mask": mask.bool()}

        encoders = {"text_encoder": LlamaModel, "text_encoder_2": CLIPTextModel}
        return encode_with_pipeline(folder, prompts, HunyuanVideoPipeline, encoders, place, encode)

    @override
    def encode_text_with_pictures(
        self,
        folder: ModelFolder,
        prompts: Sequence[str],
        pictures: Sequence[Tensor | None],
        place: Placement,
    ) -> PromptStates:
        if folder.pipeline != _IMAGE:
            return self.encode_text(folder, prompts, place)
        return encode_beside_pictures(folder, prompts, pictures, _condition(folder), place)

    @override
    def encode_given(
        self, folder: ModelFolder, spec: BackboneSpec, given: GivenFrames, place: Placement
    ) -> ConditioningFrames:
        start = super().encode_given(folder, spec, given, place)
        if spec.start != "channels":
            return start
        return replace(start, channels=image_channels(start.latents))

    @override
    def blank_start(
        self, folder: ModelFolder, spec: BackboneSpec, height: int, width: int
    ) -> ConditioningFrames | None:
        if not spec.needs_start:
            return None
        latents = torch.empty(1, spec.channels, 1, height, width)
        told = spec.start == "channels"
        return ConditioningFrames(
            latents=latents, channels=image_channels(latents) if told else None
        )

    @override
    def blank_prompts(self, folder: ModelFolder, spec: BackboneSpec) -> PromptStates:
        if folder.pipeline == _IMAGE:
            return blank_prompt(folder, _condition(folder))
        _, width = prompt_shape(folder)
        _, pooled = prompt_shape(folder, "text_encoder_2")
        return {
            "states": torch.empty(1, TEXT_TOKENS, width),
            "pooled": torch.empty(1, pooled),
            "mask": torch.ones(1, TEXT_TOKENS, dtype=torch.bool),
        }

    @override
    def sigmas(self, steps: int) -> list[float]:
        return [1 - step / steps for step in range(steps)]


def _condition(folder: ModelFolder) -> str:
    """Return how the transformer of an image-to-video folder is told of the image."""
    return str(folder.config("transformer")["image_condition_type"])
