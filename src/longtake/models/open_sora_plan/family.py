"""Open-Sora-Plan 1.3 folders: text to video and image to video."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, final

import torch
from torch import nn
from transformers import MT5EncoderModel
from typing_extensions import override

from longtake.errors import ModelError
from longtake.models.base import Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.conditioning import ConditioningFrames, GivenFrames
from longtake.models.defaults import Defaults
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import keep_layers, load_vae
from longtake.models.loading.weights import load_module
from longtake.models.open_sora_plan.backbone import OpenSoraPlanBackbone
from longtake.models.open_sora_plan.config import OpenSoraPlanConfig
from longtake.models.open_sora_plan.transformer import OpenSoraPlanTransformer
from longtake.models.open_sora_plan.wavelet_vae import (
    WaveletDecoder,
    WaveletEncoder,
    WaveletVaeConfig,
    build_wavelet_vae,
)
from longtake.models.registry import ModelFamily, register
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.text import encode_with_pipeline

_MAX_TOKENS = 512
"""Tokens of a prompt, padding included."""
_NATIVE_FRAMES = 24
PIPELINE, IMAGE_PIPELINE = "OpenSoraPlanPipeline", "OpenSoraPlanImageToVideoPipeline"
"""What ``model_index.json`` calls such folders: diffusers has no classes for them."""
VAE_CLASS = "WFVAEModel"
_DEFAULTS = Defaults(
    steps=100,
    guidance_scale=7.5,
    height=352,
    width=640,
    frames=93,
    fps=18,
    prompt_template="high quality, high aesthetic, {}",
    negative_prompt=(
        "nsfw, lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer "
        "digits, cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, "
        "watermark, username, blurry."
    ),
)


_card = partial(
    ModelCard,
    examples=("longtake.models.open_sora_plan.convert",),
    guidance="branches",
    timestep="clip",
    native_frames=_NATIVE_FRAMES,
    decoder="exact",
    licence="mit",
    defaults=_DEFAULTS,
)
"""What all of them have in common."""


@final
@register(PIPELINE, IMAGE_PIPELINE)
class OpenSoraPlanFamily(ModelFamily):
    """Open-Sora-Plan 1.3, as ``convert`` lays it out."""

    layer_lists = ("transformer_blocks",)
    video_encoder = WaveletEncoder
    cards = (
        _card(
            pipeline=PIPELINE,
            model="Open-Sora-Plan 1.3",
            start="optional",
        ),
        _card(
            pipeline=IMAGE_PIPELINE,
            model="Open-Sora-Plan 1.3 I2V",
            start="always",
            native=("start", "continue"),
        ),
    )

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        config = OpenSoraPlanConfig.read(folder.config("transformer"))
        compression = Compression(temporal=4, spatial=8)
        _check(folder, config, compression)
        return BackboneSpec(
            name=f"{folder.path.name} ({folder.pipeline})",
            channels=config.in_channels,
            patch=(config.patch_size_t, config.patch_size, config.patch_size),
            heads=config.num_attention_heads,
            head_dim=config.attention_head_dim,
            layers=config.num_layers,
            native_frames=_NATIVE_FRAMES,
            compression=compression,
            train_timesteps=folder.config("scheduler").get("num_train_timesteps", 1000),
            sparse="groups" if any(map(config.token_groups, range(config.num_layers))) else None,
            start="channels" if config.vae_scale_factor_t else "replaced",
            native=self.card(folder).native,
        )

    @override
    def module(self, component: str, config: Mapping[str, Any]) -> nn.Module | None:
        if component == "vae":
            return build_wavelet_vae(dict(config))
        return _transformer(config) if component == "transformer" else None

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> OpenSoraPlanBackbone:
        def prune(transformer: OpenSoraPlanTransformer) -> None:
            first, last = transformer.embeddings, ("scale_shift_table", "proj_out")
            keep_layers(transformer, layers, first=first, last=last)

        transformer = load_module(folder, "transformer", _transformer, place, prune=prune)
        return OpenSoraPlanBackbone(spec, transformer, layers)

    @override
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> WaveletDecoder:
        place = Placement(device, dtype)
        return WaveletDecoder(load_vae(folder, build_wavelet_vae, place, without=("encoder",)))

    @override
    def encode_given(
        self, folder: ModelFolder, spec: BackboneSpec, given: GivenFrames, place: Placement
    ) -> ConditioningFrames:
        if spec.start != "channels":
            return super().encode_given(folder, spec, given, place)
        frames, compression = given.start, spec.compression
        known = compression.latent_frames(len(frames))
        # A native clip, black where nothing is known; the rest of a long video is like its end.
        blank = compression.video_frames(spec.native_frames) - len(frames)
        clip = WaveletEncoder.load(folder, place.device).encode(frames, blank)
        mask = torch.ones(1, compression.temporal, *clip.shape[2:])  # 1: to be made
        mask[:, :, :known] = 0.0
        return ConditioningFrames(
            latents=clip[:, :, :known], channels=torch.cat([clip, mask], dim=1)
        )

    @override
    def blank_start(
        self, folder: ModelFolder, spec: BackboneSpec, height: int, width: int
    ) -> ConditioningFrames | None:
        if spec.start != "channels":
            return None
        latents = torch.empty(1, spec.channels, 1, height, width)
        channels = torch.empty(1, spec.channels + spec.compression.temporal, 1, height, width)
        return ConditioningFrames(latents=latents, channels=channels)

    @override
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        def encode(parts: Any, batch: list[str]) -> PromptStates:
            found = parts.tokenizer(
                batch,
                padding="max_length",
                max_length=_MAX_TOKENS,
                truncation=True,
                padding_side="right",
                return_tensors="pt",
            ).to(place.device)
            mask = found.attention_mask
            states = parts.text_encoder(found.input_ids, attention_mask=mask).last_hidden_state
            return {"states": states, "mask": mask.bool()}

        encoders = {"text_encoder": MT5EncoderModel}
        return encode_with_pipeline(folder, prompts, SimpleNamespace, encoders, place, encode)


def _transformer(config: Mapping[str, Any]) -> OpenSoraPlanTransformer:
    return OpenSoraPlanTransformer(OpenSoraPlanConfig.read(config))


def _check(folder: ModelFolder, config: OpenSoraPlanConfig, compression: Compression) -> None:
    """Refuse a folder whose parts do not belong together.

    Raises:
        ModelError: Its VAE is another one or has other latents, or its mask another size.
    """
    name = folder.class_name("vae")
    if name != VAE_CLASS:
        raise ModelError(
            f"the VAE in {folder.path} is a {name}, but Open-Sora-Plan 1.3's is a {VAE_CLASS}: "
            f"the folder vae beside its transformer."
        )
    found = WaveletVaeConfig.read(folder.config("vae")).latent_dim
    if found != config.in_channels:
        raise ModelError(
            f"the VAE in {folder.path} has latents of {found} channels (latent_dim), but its "
            f"transformer takes {config.in_channels}; use the one that was published with it."
        )
    if config.vae_scale_factor_t not in (0, compression.temporal):
        raise ModelError(
            f"the transformer in {folder.path} has a mask of {config.vae_scale_factor_t} values "
            f"per latent frame (vae_scale_factor_t); Open-Sora-Plan 1.3 I2V has "
            f"{compression.temporal}, one for each video frame."
        )
