"""Mochi folders: text to video."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, final

import torch
from diffusers import AutoencoderKLMochi, MochiPipeline, MochiTransformer3DModel
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule
from transformers import T5EncoderModel
from typing_extensions import override

from longtake.models.base import Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.defaults import Defaults
from longtake.models.loading.config import prompt_shape, with_defaults
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import keep_layers, load_transformer, load_vae
from longtake.models.mochi.backbone import MochiBackbone
from longtake.models.mochi.decoder import MochiDecoder
from longtake.models.mochi.lora_names import LORA_NAMES
from longtake.models.registry import ModelFamily, register
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.text import encode_with_pipeline, join_prompts

_TEXT_TOKENS = 256
"""Tokens of a prompt, padding included: what the pipeline asks for."""
_LINEAR_NOISE = 0.025
"""Share of the noise that the first half of the steps takes away, as in the pipeline."""


@final
@register("MochiPipeline")
class MochiFamily(ModelFamily):
    """Text-to-video Mochi 1."""

    layer_lists = ("transformer_blocks",)
    lora_names = LORA_NAMES
    transformer_class = MochiTransformer3DModel
    cards = (
        ModelCard(
            pipeline="MochiPipeline",
            model="Mochi 1",
            examples=("genmo/mochi-1-preview",),
            start="none",
            guidance="branches",
            timestep="clip",
            native_frames=28,
            decoder="exact",
            licence="apache-2.0",
            defaults=Defaults(
                steps=64, guidance_scale=4.5, height=480, width=848, frames=163, fps=30
            ),
        ),
    )

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        config = with_defaults(MochiTransformer3DModel, folder.config("transformer"))
        vae = with_defaults(AutoencoderKLMochi, folder.config("vae"))
        return BackboneSpec(
            name=f"{folder.path.name} ({folder.pipeline})",
            channels=config["in_channels"],
            patch=(1, config["patch_size"], config["patch_size"]),
            heads=config["num_attention_heads"],
            head_dim=config["attention_head_dim"],
            layers=config["num_layers"],
            native_frames=28,
            compression=Compression(
                temporal=math.prod(vae["temporal_expansions"]),
                spatial=math.prod(vae["spatial_expansions"]),
            ),
            train_timesteps=folder.config("scheduler").get("num_train_timesteps", 1000),
            text_tokens=_TEXT_TOKENS,
        )

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> MochiBackbone:
        def prune(transformer: Any) -> None:
            del transformer.rope  # positions are our own: absolute, and of any length
            last = ("norm_out", "proj_out")
            keep_layers(transformer, layers, first=("patch_embed",), last=last)

        transformer = load_transformer(folder, MochiTransformer3DModel, place, prune)
        return MochiBackbone(spec, transformer, layers)

    @override
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> MochiDecoder:
        place, build = Placement(device, dtype), AutoencoderKLMochi.from_config
        return MochiDecoder(load_vae(folder, build, place, without=("encoder",)))

    @override
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        def encode_one(pipeline: Any, prompt: str) -> PromptStates:
            states, mask, _, _ = pipeline.encode_prompt(
                prompt,
                do_classifier_free_guidance=False,
                max_sequence_length=_TEXT_TOKENS,
                device=place.device,
            )
            return {"states": states, "mask": mask}

        def encode(pipeline: Any, batch: list[str]) -> PromptStates:
            # One by one: the pipeline empties a whole batch whose last prompt is empty.
            return join_prompts([encode_one(pipeline, prompt) for prompt in batch])

        zeros = bool(folder.index.get("force_zeros_for_empty_prompt", False))
        pipeline_class = partial(MochiPipeline, force_zeros_for_empty_prompt=zeros)
        encoders = {"text_encoder": T5EncoderModel}
        return encode_with_pipeline(folder, prompts, pipeline_class, encoders, place, encode)

    @override
    def blank_prompts(self, folder: ModelFolder, spec: BackboneSpec) -> PromptStates:
        _, width = prompt_shape(folder)
        mask = torch.ones(1, _TEXT_TOKENS, dtype=torch.bool)
        return {"states": torch.empty(1, _TEXT_TOKENS, width), "mask": mask}

    @override
    def sigmas(self, steps: int) -> list[float]:
        if steps == 1:
            return [1.0]  # there is no half of it
        return list(linear_quadratic_schedule(steps, _LINEAR_NOISE))
