"""LTX-Video folders: text and image to video, with the same weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, final

import numpy as np
import torch
from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel
from transformers import T5EncoderModel
from typing_extensions import override

from longtake.models.base import Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.defaults import Defaults
from longtake.models.loading import parts
from longtake.models.loading.config import prompt_shape, with_defaults
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import keep_layers, load_vae
from longtake.models.ltx.backbone import LTXBackbone
from longtake.models.ltx.decoder import LTXDecoder
from longtake.models.ltx.encoder import LTXEncoder
from longtake.models.ltx.lora_names import LORA_NAMES
from longtake.models.ltx.single_file import check_latents
from longtake.models.registry import ModelFamily, register
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.text import encode_with_pipeline

_TEXT_TOKENS = 128
"""Tokens of a prompt, padding included: what the pipeline asks for."""


@final
@register("LTXPipeline")
class LTXFamily(ModelFamily):
    """LTX-Video: 0.9.0, 0.9.1 and what has the same pipeline.

    The weights know a timestep per token: a given frame is clean and told 0, as in the pipeline
    from an image.
    """

    layer_lists = ("transformer_blocks",)
    video_encoder = LTXEncoder
    lora_names = LORA_NAMES
    transformer_class = LTXVideoTransformer3DModel
    cards = (
        ModelCard(
            pipeline="LTXPipeline",
            model="LTX-Video",
            examples=("Lightricks/LTX-Video",),
            start="optional",
            native=("start",),
            guidance="branches",
            timestep="frame",
            native_frames=21,
            decoder="exact",
            licence="ltx-video-open-weights",
            defaults=Defaults(guidance_scale=3.0, height=512, width=704, frames=161, fps=25),
        ),
    )

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        config = with_defaults(LTXVideoTransformer3DModel, folder.config("transformer"))
        vae = with_defaults(AutoencoderKLLTXVideo, folder.config("vae"))
        halvings = 2 ** sum(vae["spatio_temporal_scaling"])
        return BackboneSpec(
            name=f"{folder.path.name} ({folder.pipeline})",
            channels=config["in_channels"],
            patch=(config["patch_size_t"], config["patch_size"], config["patch_size"]),
            heads=config["num_attention_heads"],
            head_dim=config["attention_head_dim"],
            layers=config["num_layers"],
            native_frames=21,
            compression=Compression(
                temporal=vae["temporal_compression_ratio"] or vae["patch_size_t"] * halvings,
                spatial=vae["spatial_compression_ratio"] or vae["patch_size"] * halvings,
            ),
            train_timesteps=folder.config("scheduler").get("num_train_timesteps", 1000),
            timestep="frame",
            start="replaced",
            native=self.card(folder).native,
        )

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> LTXBackbone:
        return LTXBackbone(spec, load_transformer(folder, layers, place), layers)

    @override
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> LTXDecoder:
        return LTXDecoder(load_decoding_vae(folder, Placement(device, dtype)))

    @override
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        return encode_prompts(folder, prompts, place, LTXPipeline, _TEXT_TOKENS)

    @override
    def blank_prompts(self, folder: ModelFolder, spec: BackboneSpec) -> PromptStates:
        return blank(folder, _TEXT_TOKENS)

    @override
    def sigmas(self, steps: int) -> list[float]:
        return [float(sigma) for sigma in np.linspace(1.0, 1 / steps, steps)]


def load_transformer(
    folder: ModelFolder, layers: Collection[int], place: Placement
) -> LTXVideoTransformer3DModel:
    """Read a transformer with only ``layers`` of it."""
    first, last = ("proj_in",), ("norm_out", "proj_out")
    prune = partial(keep_layers, layers=layers, first=first, last=last)
    return parts.load_transformer(folder, LTXVideoTransformer3DModel, place, prune)


def load_decoding_vae(folder: ModelFolder, place: Placement) -> AutoencoderKLLTXVideo:
    """Read a VAE without its encoder.

    Raises:
        ModelError: The transformer's file holds a VAE of other latents.
    """
    check_latents(folder)
    return load_vae(folder, AutoencoderKLLTXVideo.from_config, place, without=("encoder",))


def encode_prompts(
    folder: ModelFolder, prompts: Sequence[str], place: Placement, pipeline: type[Any], tokens: int
) -> PromptStates:
    """Encode prompts as a pipeline class does, each padded to as many tokens."""

    def encode(pipeline: Any, batch: list[str]) -> PromptStates:
        states, mask, _, _ = pipeline.encode_prompt(
            batch,
            do_classifier_free_guidance=False,
            max_sequence_length=tokens,
            device=place.device,
        )
        return {"states": states, "mask": mask}

    encoders = {"text_encoder": T5EncoderModel}
    return encode_with_pipeline(folder, prompts, pipeline, encoders, place, encode)


def blank(folder: ModelFolder, tokens: int) -> PromptStates:
    """Return states of one prompt without values, of so many tokens."""
    _, width = prompt_shape(folder)
    mask = torch.ones(1, tokens, dtype=torch.bool)
    return {"states": torch.empty(1, tokens, width), "mask": mask}
