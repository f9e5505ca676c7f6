"""Open-Sora-Plan 1.3 folders: text to video."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, final

import torch
from diffusers import AutoencoderKLWan
from transformers import MT5EncoderModel
from typing_extensions import override

from longtake.errors import ModelError
from longtake.models.base import Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.defaults import Defaults
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import keep_layers, load_vae
from longtake.models.loading.weights import load_module
from longtake.models.open_sora_plan.backbone import OpenSoraPlanBackbone
from longtake.models.open_sora_plan.config import OpenSoraPlanConfig
from longtake.models.open_sora_plan.transformer import OpenSoraPlanTransformer
from longtake.models.registry import ModelFamily, register
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.text import encode_with_pipeline
from longtake.models.wan import WanDecoder

_MAX_TOKENS = 512
"""Tokens of a prompt, padding included."""
PIPELINE = "OpenSoraPlanPipeline"
"""What ``model_index.json`` calls such a folder: diffusers has no class for it."""


@final
@register(PIPELINE)
class OpenSoraPlanFamily(ModelFamily):
    """Text-to-video Open-Sora-Plan 1.3, as ``convert`` lays it out.

    Prompts are encoded as they are: the words about quality that the published script puts round
    them, and its negative prompt, are the user's to give.
    """

    layer_lists = ("transformer_blocks",)
    cards = (
        ModelCard(
            pipeline=PIPELINE,
            model="Open-Sora-Plan 1.3",
            examples=("longtake.models.open_sora_plan.convert",),
            start="none",
            guidance="branches",
            timestep="clip",
            native_frames=24,
            decoder="exact",
            licence="mit",
            defaults=Defaults(
                steps=100, guidance_scale=7.5, height=352, width=640, frames=93, fps=18
            ),
        ),
    )

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        config = OpenSoraPlanConfig.read(folder.config("transformer"))
        vae = _vae_config(folder, config.in_channels)
        return BackboneSpec(
            name=f"{folder.path.name} ({folder.pipeline})",
            channels=config.in_channels,
            patch=(config.patch_size_t, config.patch_size, config.patch_size),
            heads=config.num_attention_heads,
            head_dim=config.attention_head_dim,
            layers=config.num_layers,
            native_frames=24,
            compression=Compression(
                temporal=vae.get("scale_factor_temporal") or 4,
                spatial=vae.get("scale_factor_spatial") or 8,
            ),
            train_timesteps=folder.config("scheduler").get("num_train_timesteps", 1000),
            sparse=any(map(config.token_groups, range(config.num_layers))),
        )

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> OpenSoraPlanBackbone:
        def build(config: dict[str, Any]) -> OpenSoraPlanTransformer:
            return OpenSoraPlanTransformer(OpenSoraPlanConfig.read(config))

        first, last = ("pos_embed",), ("scale_shift_table", "proj_out")
        prune = partial(keep_layers, layers=layers, first=first, last=last)
        transformer = load_module(folder, "transformer", build, place, prune=prune)
        return OpenSoraPlanBackbone(spec, transformer, layers)

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


def _vae_config(folder: ModelFolder, channels: int) -> dict[str, Any]:
    """Return the VAE's configuration.

    Raises:
        ModelError: The VAE is one that cannot be run here, or of other latents.
    """
    name = folder.class_name("vae")
    if name != AutoencoderKLWan.__name__:
        raise ModelError(
            f"the VAE in {folder.path} is a {name}, which diffusers lacks and longtake does not "
            f"have: Open-Sora-Plan's own wavelet VAE cannot be run yet; the folder can be run "
            f"with an AutoencoderKLWan whose latents the transformer was trained on."
        )
    config = folder.config("vae")
    found = config.get("z_dim", 16)
    if found != channels:
        raise ModelError(
            f"the VAE in {folder.path} has latents of {found} channels, but its transformer "
            f"takes {channels}; an AutoencoderKLWan of z_dim {channels} is needed."
        )
    return config
