"""Kandinsky 5 folders: text and image to video."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, final

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
)
from diffusers.pipelines.kandinsky5.pipeline_kandinsky import prompt_clean
from torch.nn.functional import pad
from transformers import CLIPTextModel, Qwen2_5_VLForConditionalGeneration
from typing_extensions import override

from longtake.errors import ModelError
from longtake.models.base import AnyDecoder, Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.conditioning import ConditioningFrames
from longtake.models.defaults import Defaults
from longtake.models.hunyuan_video.decoder import load_decoder
from longtake.models.hunyuan_video.encoder import HunyuanVideoEncoder
from longtake.models.kandinsky5.backbone import Kandinsky5Backbone
from longtake.models.kandinsky5.decoder import EvenedDecoder
from longtake.models.kandinsky5.nabla import SIDE
from longtake.models.loading.config import with_defaults
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import keep_layers, load_transformer
from longtake.models.registry import ModelFamily, register
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.text import encode_with_pipeline

_TOKENS: Final = 512
"""Tokens of a prompt, without the instruction before it."""
_NATIVE_FRAMES: Final = 31
_NATIVE_FRAMES_10S: Final = 61
_NEGATIVE: Final = (
    "Static, 2D cartoon, cartoon, 2d animation, paintings, images, worst quality, low quality, "
    "ugly, deformed, walking backwards"
)
_LAYERS: Final = "visual_transformer_blocks"
_NABLA: Final = ("attention_P", "attention_wT", "attention_wH", "attention_wW")
"""What the transformer's configuration says of sparse attention."""
_TEXT: Final = "Kandinsky5T2VPipeline"
_IMAGE: Final = "Kandinsky5I2VPipeline"
_DEFAULTS: Final = Defaults(
    guidance_scale=5.0,
    height=512,
    width=768,
    frames=121,
    fps=24,
    negative_prompt=_NEGATIVE,
)


_card = partial(
    ModelCard,
    licence="mit",
    guidance="branches",
    timestep="clip",
    decoder="overlap",
)
"""What all of them have in common."""


@final
@register(_TEXT, _IMAGE)
class Kandinsky5Family(ModelFamily):
    """Kandinsky 5, from text or from an image; its VAE is HunyuanVideo's."""

    layer_lists = (_LAYERS,)
    video_encoder = HunyuanVideoEncoder
    cards = (
        _card(
            pipeline=_TEXT,
            model="Kandinsky 5 Lite",
            examples=("kandinskylab/Kandinsky-5.0-T2V-Lite-sft-5s-Diffusers",),
            start="optional",
            native_frames=_NATIVE_FRAMES,
            defaults=_DEFAULTS,
        ),
        _card(
            pipeline=_TEXT,
            model="Kandinsky 5 Lite, 10 s",
            examples=("kandinskylab/Kandinsky-5.0-T2V-Lite-sft-10s-Diffusers",),
            start="optional",
            native_frames=_NATIVE_FRAMES_10S,
            chooses_keys=True,
            defaults=replace(_DEFAULTS, frames=241),
        ),
        _card(
            pipeline=_IMAGE,
            model="Kandinsky 5 Lite I2V",
            examples=("kandinskylab/Kandinsky-5.0-I2V-Lite-5s-Diffusers",),
            start="always",
            native=("start",),
            native_frames=_NATIVE_FRAMES,
            defaults=_DEFAULTS,
        ),
    )

    @override
    def card(self, folder: ModelFolder) -> ModelCard:
        text, text_10s, image = self.cards
        if folder.pipeline == _IMAGE:
            return image
        return text_10s if _transformer_config(folder)["attention_type"] == "nabla" else text

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        config, card = _transformer_config(folder), self.card(folder)
        vae = with_defaults(AutoencoderKLHunyuanVideo, folder.config("vae"))
        head_dim = sum(config["axes_dims"])
        return BackboneSpec(
            name=f"{folder.path.name} ({folder.pipeline})",
            channels=config["in_visual_dim"],
            patch=tuple(config["patch_size"]),
            heads=config["model_dim"] // head_dim,
            head_dim=head_dim,
            layers=config["num_visual_blocks"],
            native_frames=card.native_frames or _NATIVE_FRAMES,
            compression=Compression(
                temporal=vae["temporal_compression_ratio"],
                spatial=vae["spatial_compression_ratio"],
            ),
            moves_keys=True,
            train_timesteps=folder.config("scheduler").get("num_train_timesteps", 1000),
            start="marked" if folder.pipeline == _IMAGE else "replaced",
            native=card.native,
            sparse="chosen" if config["attention_type"] == "nabla" else None,
            square=SIDE if config["attention_type"] == "nabla" else 1,
        )

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> Kandinsky5Backbone:
        def prune(transformer: Any) -> None:
            del transformer.text_rope_embeddings, transformer.visual_rope_embeddings  # our own
            keep_layers(
                transformer,
                layers,
                lists=self.layer_lists,
                first=("visual_embeddings",),
                last=("out_layer",),
            )

        transformer = load_transformer(folder, Kandinsky5Transformer3DModel, place, prune)
        return Kandinsky5Backbone(spec, transformer, layers)

    @override
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> AnyDecoder:
        decoder = load_decoder(folder, device, dtype)
        return EvenedDecoder(decoder) if folder.pipeline == _IMAGE else decoder

    @override
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        return encode_with_pipeline(
            folder,
            prompts,
            Kandinsky5T2VPipeline,
            {"text_encoder": Qwen2_5_VLForConditionalGeneration, "text_encoder_2": CLIPTextModel},
            place,
            partial(_encode, folder=folder, place=place),
        )

    @override
    def blank_start(
        self, folder: ModelFolder, spec: BackboneSpec, height: int, width: int
    ) -> ConditioningFrames | None:
        if not spec.needs_start:
            return None
        return ConditioningFrames(latents=torch.empty(1, spec.channels, 1, height, width))

    @override
    def blank_prompts(self, folder: ModelFolder, spec: BackboneSpec) -> PromptStates:
        config = _transformer_config(folder)
        return {
            "states": torch.empty(1, _TOKENS, config["in_text_dim"]),
            "pooled": torch.empty(1, config["in_text_dim2"]),
        }


def _encode(
    pipeline: Any, batch: list[str], *, folder: ModelFolder, place: Placement
) -> PromptStates:
    """Encode prompts one by one: the model sees no padding, and its pipeline knows no mask."""
    rows: list[PromptStates] = []
    for prompt in batch:
        _tell(pipeline, prompt, folder)
        states, pooled, _ = pipeline.encode_prompt(
            [prompt], device=place.device, max_sequence_length=_TOKENS
        )
        seen, missing = states.shape[1], _TOKENS - states.shape[1]
        mask = torch.arange(_TOKENS, device=states.device)[None] < seen
        rows.append({"states": pad(states, (0, 0, 0, missing)), "pooled": pooled, "mask": mask})
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def _tell(pipeline: Any, prompt: str, folder: ModelFolder) -> None:
    """Say what of a prompt the pipeline cuts off by itself, before its tokenizer would."""
    whole = pipeline.prompt_template.format(prompt_clean(prompt))
    tokens = pipeline.tokenizer(text=whole)["input_ids"]
    most = pipeline.prompt_template_encode_start_idx + _TOKENS
    if len(tokens) > most:
        left = pipeline.tokenizer.decode(tokens[most - 2 : -2])
        folder.report(
            f"the text_encoder reads {_TOKENS} tokens of a prompt; this has no effect: {left!r}."
        )


def _transformer_config(folder: ModelFolder) -> dict[str, Any]:
    """Return the transformer's configuration, or refuse the folder."""
    config = with_defaults(Kandinsky5Transformer3DModel, folder.config("transformer"))
    kind, numbers = config["attention_type"], [config[name] for name in _NABLA]
    if kind not in ("regular", "nabla") or (kind == "nabla" and None in numbers):
        said = ", ".join(f"{name} {config[name]}" for name in ("attention_type", *_NABLA))
        raise ModelError(
            f"{folder.path} is a Kandinsky 5 with {said}; longtake knows regular, and nabla with "
            f"all four numbers."
        )
    return config
