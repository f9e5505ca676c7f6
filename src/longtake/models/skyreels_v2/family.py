"""SkyReels-V2 folders: text to video, one noise level or one per frame, and image to video."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, final

import torch
from diffusers import SkyReelsV2Transformer3DModel
from typing_extensions import override

from longtake.errors import ModelError
from longtake.models.base import AnyDecoder, Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.conditioning import ConditioningFrames, GivenFrames
from longtake.models.defaults import Defaults
from longtake.models.loading.config import with_defaults
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import load_transformer
from longtake.models.registry import ModelFamily, register
from longtake.models.skyreels_v2.backbone import skyreels_v2_backbone
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.wan import WanBackbone, WanFamily
from longtake.models.wan.encoder import WanEncoder
from longtake.models.wan.family import keep_wan_layers
from longtake.models.wan.given import wan_start
from longtake.models.wan.lora_names import LORA_NAMES

_DIFFUSION_FORCING = "SkyReelsV2DiffusionForcingPipeline"
_IMAGE = "SkyReelsV2ImageToVideoPipeline"
_DEFAULTS = Defaults(guidance_scale=6.0, height=544, width=960, frames=97, fps=24, flow_shift=8.0)
"""Of text to video; the folders' schedulers have no shift (1), and callers are told to set it."""
_IMAGE_DEFAULTS = replace(_DEFAULTS, guidance_scale=5.0, flow_shift=5.0)
_FRAMES: Final = 25
"""Latent frames of a clip at 540p."""
_LARGER: Final[dict[str, Any]] = {"height": 720, "width": 1280, "frames": 121}
"""Of the models at 720p, which are known by their hub ids alone: their folders say the same."""


_card = partial(
    ModelCard,
    guidance="branches",
    decoder="exact",
    licence="skywork-license",
)
"""What all of them have in common."""


@final
@register(_DIFFUSION_FORCING, "SkyReelsV2Pipeline", _IMAGE)
class SkyReelsV2Family(ModelFamily):
    """SkyReels-V2: diffusion forcing, or trained on clips of one noise level, also from an image.

    Text encoder, VAE and what an image becomes are Wan 2.1's.
    """

    layer_lists = ("blocks",)
    video_encoder = WanEncoder
    lora_names = LORA_NAMES
    transformer_class = SkyReelsV2Transformer3DModel
    cards = (
        _card(
            pipeline=_DIFFUSION_FORCING,
            model="SkyReels-V2, diffusion forcing",
            examples=(
                "Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers",
                "Skywork/SkyReels-V2-DF-14B-540P-Diffusers",
            ),
            start="optional",
            native=("start", "continue"),
            timestep="frame",
            native_frames=25,
            defaults=_DEFAULTS,
        ),
        _card(
            pipeline="SkyReelsV2Pipeline",
            model="SkyReels-V2, text to video",
            examples=("Skywork/SkyReels-V2-T2V-14B-540P-Diffusers",),
            start="optional",
            timestep="clip",
            native_frames=25,
            defaults=_DEFAULTS,
        ),
        _card(
            pipeline=_IMAGE,
            model="SkyReels-V2, image to video",
            examples=("Skywork/SkyReels-V2-I2V-14B-540P-Diffusers",),
            start="always",
            native=("start",),
            timestep="clip",
            native_frames=25,
            defaults=_IMAGE_DEFAULTS,
        ),
        _card(
            pipeline="SkyReelsV2Pipeline",
            model="SkyReels-V2 720P, text to video",
            examples=("Skywork/SkyReels-V2-T2V-14B-720P-Diffusers",),
            start="optional",
            timestep="clip",
            native_frames=31,
            defaults=replace(_DEFAULTS, **_LARGER),
        ),
        _card(
            pipeline=_IMAGE,
            model="SkyReels-V2 720P, image to video",
            examples=("Skywork/SkyReels-V2-I2V-14B-720P-Diffusers",),
            start="always",
            timestep="clip",
            native_frames=31,
            defaults=replace(_IMAGE_DEFAULTS, **_LARGER),
        ),
    )

    @override
    def defaults(self, folder: ModelFolder) -> Defaults:
        own = folder.config("scheduler").get("flow_shift", 1.0)
        defaults = self.card(folder).defaults
        return defaults if own == 1.0 else replace(defaults, flow_shift=None)

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        config = with_defaults(SkyReelsV2Transformer3DModel, folder.config("transformer"))
        if config["num_frame_per_block"] > 1:
            raise ModelError(
                f"{folder.path} has num_frame_per_block {config['num_frame_per_block']}, causal "
                f"attention; longtake's windows need 1: frames that see both of their sides."
            )
        if config["pos_embed_seq_len"] is not None:
            raise ModelError(
                f"{folder.path} has a transformer with image positions "
                f"{config['pos_embed_seq_len']}; that of SkyReels-V2 has none."
            )
        vae, channels = folder.config("vae"), config["out_channels"] or config["in_channels"]
        temporal = vae.get("scale_factor_temporal") or 4
        start = wan_start(folder, config, channels, temporal)
        if (start == "channels") != (folder.pipeline == _IMAGE):
            raise ModelError(
                f"{folder.path} is a {folder.pipeline} whose transformer has "
                f"{config['in_channels']} input channels; that of a {_IMAGE} has {channels} for "
                f"latents and {channels + temporal} for given frames, any other's the first alone."
            )
        return BackboneSpec(
            name=f"{folder.path.name} ({folder.pipeline})",
            channels=channels,
            patch=tuple(config["patch_size"]),
            heads=config["num_attention_heads"],
            head_dim=config["attention_head_dim"],
            layers=config["num_layers"],
            native_frames=self.card(folder).native_frames or _FRAMES,
            compression=Compression(
                temporal=temporal,
                spatial=vae.get("scale_factor_spatial") or 8,
            ),
            frame_levels=True,
            moves_keys=True,
            train_timesteps=folder.config("scheduler").get("num_train_timesteps", 1000),
            timestep="frame" if folder.pipeline == _DIFFUSION_FORCING else "clip",
            start=start,
            native=self.card(folder).native,
        )

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> WanBackbone:
        prune = partial(keep_wan_layers, layers=layers)
        transformer = load_transformer(folder, SkyReelsV2Transformer3DModel, place, prune)
        return skyreels_v2_backbone(spec, transformer, layers)

    @override
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> AnyDecoder:
        return WanFamily().load_decoder(folder, device, dtype)

    @override
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        return WanFamily().encode_text(folder, prompts, place)

    @override
    def encode_given(
        self, folder: ModelFolder, spec: BackboneSpec, given: GivenFrames, place: Placement
    ) -> ConditioningFrames:
        return WanFamily().encode_given(folder, spec, given, place)

    @override
    def blank_start(
        self, folder: ModelFolder, spec: BackboneSpec, height: int, width: int
    ) -> ConditioningFrames | None:
        return WanFamily().blank_start(folder, spec, height, width)
