"""HunyuanVideo 1.5 folders: text to video and image to video."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, final

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from diffusers.pipelines.hunyuan_video1_5.image_processor import HunyuanVideo15ImageProcessor
from torch import Tensor
from transformers import Qwen2_5_VLTextModel, T5EncoderModel
from typing_extensions import override

from longtake.errors import ModelError
from longtake.models.base import Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.conditioning import ConditioningFrames, GivenFrames
from longtake.models.defaults import Defaults
from longtake.models.hunyuan_video.image_channels import image_channels
from longtake.models.hunyuan_video15.backbone import HunyuanVideo15Backbone
from longtake.models.hunyuan_video15.decoder import HunyuanVideo15Decoder
from longtake.models.hunyuan_video15.encoder import HunyuanVideo15Encoder
from longtake.models.hunyuan_video15.image import encode_image, image_tokens
from longtake.models.hunyuan_video15.lora_names import LORA_NAMES
from longtake.models.loading.config import prompt_shape, with_defaults
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import keep_layers, load_transformer, load_vae
from longtake.models.registry import ModelFamily, register
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.text import encode_with_pipeline
from longtake.models.video_frames import VideoFrames

_PROMPT_TOKENS, _GLYPH_TOKENS = 1000, 256
"""Tokens of a prompt and of the texts in quotes in it, padding included: what the pipeline has."""
_NATIVE_FRAMES = 31
_IMAGE = "HunyuanVideo15ImageToVideoPipeline"
_PLAIN = {"guidance_rescale": 0.0, "use_original_formulation": False, "start": 0.0, "stop": 1.0}
"""Settings of a guider that does classifier-free guidance in every step, and no more."""

_DEFAULTS = Defaults(guidance_scale=6.0, height=480, width=848, frames=121, fps=24)
_WIDTH, _HEIGHT = 16, 9
"""The pipeline's own aspect ratio."""


_card = partial(
    ModelCard,
    guidance="branches",
    timestep="clip",
    native_frames=_NATIVE_FRAMES,
    decoder="window",
    licence="tencent-hunyuan-community",
    defaults=_DEFAULTS,
)
"""What all of them have in common."""


@final
@register("HunyuanVideo15Pipeline", _IMAGE)
class HunyuanVideo15Family(ModelFamily):
    """HunyuanVideo 1.5 from text, or from an image, which is encoded twice: VAE and SigLIP."""

    layer_lists = ("transformer_blocks",)
    lora_names = LORA_NAMES
    transformer_class = HunyuanVideo15Transformer3DModel
    cards = (
        _card(
            pipeline="HunyuanVideo15Pipeline",
            model="HunyuanVideo 1.5",
            examples=("hunyuanvideo-community/HunyuanVideo-1.5-480p_t2v",),
            start="optional",
        ),
        _card(
            pipeline=_IMAGE,
            model="HunyuanVideo 1.5 I2V",
            examples=("hunyuanvideo-community/HunyuanVideo-1.5-480p_i2v",),
            start="always",
            native=("start",),
        ),
    )

    @override
    def defaults(self, folder: ModelFolder) -> Defaults:
        """Return the scale that the guider says (1 for distilled folders), and the size."""
        config = with_defaults(HunyuanVideo15Transformer3DModel, folder.config("transformer"))
        vae = with_defaults(AutoencoderKLHunyuanVideo15, folder.config("vae"))
        sizes = HunyuanVideo15ImageProcessor(vae_scale_factor=vae["spatial_compression_ratio"])
        height, width = sizes.calculate_default_height_width(_HEIGHT, _WIDTH, config["target_size"])
        guider = with_defaults(ClassifierFreeGuidance, folder.config("guider"))
        scale = float(guider["guidance_scale"]) if guider["enabled"] else 1.0
        return replace(_DEFAULTS, guidance_scale=scale, height=height, width=width)

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        _check_guider(folder)
        image = folder.pipeline == _IMAGE
        config = with_defaults(HunyuanVideo15Transformer3DModel, folder.config("transformer"))
        vae = with_defaults(AutoencoderKLHunyuanVideo15, folder.config("vae"))
        return BackboneSpec(
            name=f"{folder.path.name} ({folder.pipeline})",
            channels=vae["latent_channels"],
            patch=(config["patch_size_t"], config["patch_size"], config["patch_size"]),
            heads=config["num_attention_heads"],
            head_dim=config["attention_head_dim"],
            layers=config["num_layers"],
            native_frames=_NATIVE_FRAMES,
            compression=Compression(
                temporal=vae["temporal_compression_ratio"],
                spatial=vae["spatial_compression_ratio"],
            ),
            moves_keys=True,
            train_timesteps=folder.config("scheduler").get("num_train_timesteps", 1000),
            text_tokens=_PROMPT_TOKENS + _GLYPH_TOKENS + (image_tokens(folder) if image else 0),
            start="channels" if image else "replaced",
            native=self.card(folder).native,
        )

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> HunyuanVideo15Backbone:
        def prune(transformer: Any) -> None:
            del transformer.rope  # positions are our own: absolute, and of any length
            embedders = ["x_embedder", "cond_type_embed", "context_embedder", "context_embedder_2"]
            if spec.start == "channels":
                embedders.append("image_embedder")
            else:
                del transformer.image_embedder
            keep_layers(transformer, layers, first=embedders, last=("norm_out", "proj_out"))

        transformer = load_transformer(folder, HunyuanVideo15Transformer3DModel, place, prune)
        return HunyuanVideo15Backbone(spec, transformer, layers)

    @override
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> HunyuanVideo15Decoder:
        place, build = Placement(device, dtype), AutoencoderKLHunyuanVideo15.from_config
        vae = load_vae(folder, build, place, without=("encoder",))
        return HunyuanVideo15Decoder(vae, _NATIVE_FRAMES)

    @override
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        def encode(pipeline: Any, batch: list[str]) -> PromptStates:
            states, mask, glyphs, glyphs_mask = pipeline.encode_prompt(
                batch, device=place.device, batch_size=len(batch)
            )
            masks = {"mask": mask.bool(), "glyphs_mask": glyphs_mask.bool()}
            return {"states": states, "glyphs": glyphs, **masks}

        with torch.device("meta"):  # the pipeline cannot be built without one, but uses no weights
            vae = AutoencoderKLHunyuanVideo15.from_config(folder.config("vae"))
        return encode_with_pipeline(
            folder,
            prompts,
            HunyuanVideo15Pipeline,
            {"text_encoder": Qwen2_5_VLTextModel, "text_encoder_2": T5EncoderModel},
            place,
            encode,
            others={"vae": vae, "guider": None},
        )

    @override
    def encode_video(
        self, folder: ModelFolder, frames: VideoFrames, device: torch.device
    ) -> Tensor:
        return HunyuanVideo15Encoder.load(folder, device, _NATIVE_FRAMES).encode(frames)

    @override
    def encode_given(
        self, folder: ModelFolder, spec: BackboneSpec, given: GivenFrames, place: Placement
    ) -> ConditioningFrames:
        start = super().encode_given(folder, spec, given, place)
        if spec.start != "channels":
            return start
        return replace(
            start,
            channels=image_channels(start.latents),
            prompts={"image": encode_image(folder, given.start[:1][0], place.device)},
        )

    @override
    def blank_start(
        self, folder: ModelFolder, spec: BackboneSpec, height: int, width: int
    ) -> ConditioningFrames | None:
        if spec.start != "channels":
            return None
        width_of_states = folder.config("image_encoder")["hidden_size"]
        return ConditioningFrames(
            latents=torch.empty(1, spec.channels, 1, height, width),
            channels=torch.empty(1, spec.channels + 1, 1, height, width),
            prompts={"image": torch.empty(1, image_tokens(folder), width_of_states)},
        )

    @override
    def blank_prompts(self, folder: ModelFolder, spec: BackboneSpec) -> PromptStates:
        _, width = prompt_shape(folder)
        _, glyph_width = prompt_shape(folder, "text_encoder_2")
        return {
            "states": torch.empty(1, _PROMPT_TOKENS, width),
            "mask": torch.ones(1, _PROMPT_TOKENS, dtype=torch.bool),
            "glyphs": torch.empty(1, _GLYPH_TOKENS, glyph_width),
            "glyphs_mask": torch.ones(1, _GLYPH_TOKENS, dtype=torch.bool),
        }

    @override
    def sigmas(self, steps: int) -> list[float]:
        return [1 - step / steps for step in range(steps)]


def _check_guider(folder: ModelFolder) -> None:
    name = folder.class_name("guider")
    if name != "ClassifierFreeGuidance":
        raise ModelError(
            f"{folder.path} is guided by {name}; ClassifierFreeGuidance is what longtake does."
        )
    config = folder.config("guider")
    for setting, plain in _PLAIN.items():
        if config.get(setting, plain) != plain:
            raise ModelError(
                f"{folder.path / 'guider'} sets {setting} to {config[setting]}; longtake combines "
                f"every step alike and rescales nothing, so it must be {plain}."
            )
