"""CogVideoX folders: text to video (2B, 5B, 1.5 5B), and image to video (5B, 1.5 5B)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, final

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel
from torch import Tensor
from transformers import T5EncoderModel
from typing_extensions import override

from longtake.errors import ModelError
from longtake.models.base import Placement, PromptStates
from longtake.models.card import ModelCard
from longtake.models.cogvideox.backbone import CogVideoXBackbone
from longtake.models.cogvideox.decoder import CogVideoXDecoder
from longtake.models.cogvideox.encoder import CogVideoXEncoder
from longtake.models.cogvideox.lora_names import LORA_NAMES
from longtake.models.cogvideox.pairs import PAIR, PairsDecoder, before_the_video, paired
from longtake.models.conditioning import ConditioningFrames, GivenFrames
from longtake.models.defaults import Defaults
from longtake.models.loading.config import prompt_shape, with_defaults
from longtake.models.loading.folder import ModelFolder
from longtake.models.loading.parts import keep_layers, load_transformer, load_vae
from longtake.models.registry import ModelFamily, register
from longtake.models.spec import BackboneSpec, Compression
from longtake.models.text import encode_with_pipeline
from longtake.models.video_frames import VideoFrames

_DEFAULTS = Defaults(guidance_scale=6.0, height=480, width=720, frames=49, fps=8)
_DEFAULTS_15 = replace(_DEFAULTS, height=768, width=1360, frames=81, fps=16)
"""Of its authors' script; the pipeline would make pictures as large as its positions reach."""
_IMAGE = "CogVideoXImageToVideoPipeline"
_ROTARY = "use_rotary_positional_embeddings"
"""What 5B has and 2B has not."""


_card = partial(
    ModelCard,
    guidance="branches",
    timestep="clip",
    decoder="exact",
)
"""What all of them have in common."""


@final
@register("CogVideoXPipeline", _IMAGE)
class CogVideoXFamily(ModelFamily):
    """CogVideoX, from text or from an image; 1.5 has two latent frames per token."""

    layer_lists = ("transformer_blocks",)
    lora_names = LORA_NAMES
    transformer_class = CogVideoXTransformer3DModel
    cards = (
        _card(
            pipeline="CogVideoXPipeline",
            model="CogVideoX 1.0 2B",
            examples=("THUDM/CogVideoX-2b",),
            licence="apache-2.0",
            start="optional",
            native_frames=13,
            defaults=_DEFAULTS,
        ),
        _card(
            pipeline="CogVideoXPipeline",
            model="CogVideoX 1.0 5B",
            examples=("THUDM/CogVideoX-5b",),
            licence="cogvideox-license",
            start="optional",
            native_frames=13,
            defaults=_DEFAULTS,
        ),
        _card(
            pipeline="CogVideoXPipeline",
            model="CogVideoX 1.5 5B",
            examples=("THUDM/CogVideoX1.5-5B",),
            licence="cogvideox-license",
            start="optional",
            native_frames=11,
            defaults=_DEFAULTS_15,
        ),
        _card(
            pipeline=_IMAGE,
            model="CogVideoX 1.0 5B I2V",
            examples=("THUDM/CogVideoX-5b-I2V",),
            licence="cogvideox-license",
            start="always",
            native=("start",),
            native_frames=13,
            defaults=_DEFAULTS,
        ),
        _card(
            pipeline=_IMAGE,
            model="CogVideoX 1.5 5B I2V",
            examples=("THUDM/CogVideoX1.5-5B-I2V",),
            licence="cogvideox-license",
            start="always",
            native=("start",),
            native_frames=11,
            defaults=_DEFAULTS_15,
        ),
    )

    @override
    def card(self, folder: ModelFolder) -> ModelCard:
        small, large, newer, image, newer_image = self.cards
        config = folder.config("transformer")
        pairs = config.get("patch_size_t") is not None
        if folder.pipeline == _IMAGE:
            return newer_image if pairs else image
        if pairs:
            return newer
        return large if config.get(_ROTARY) else small

    @override
    def defaults(self, folder: ModelFolder) -> Defaults:
        config = with_defaults(CogVideoXTransformer3DModel, folder.config("transformer"))
        if config["patch_size_t"] is not None:
            return _DEFAULTS_15
        scale = _spatial(with_defaults(AutoencoderKLCogVideoX, folder.config("vae")))
        return replace(
            _DEFAULTS,
            height=config["sample_height"] * scale,
            width=config["sample_width"] * scale,
            frames=config["sample_frames"],
        )

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        config, image = _transformer_config(folder), folder.pipeline == _IMAGE
        learned = config["use_learned_positional_embeddings"]
        vae = with_defaults(AutoencoderKLCogVideoX, folder.config("vae"))
        together = _together(config)
        return BackboneSpec(
            name=f"{folder.path.name} ({folder.pipeline})",
            channels=config["out_channels"] * together,
            patch=(1, config["patch_size"], config["patch_size"]),
            heads=config["num_attention_heads"],
            head_dim=config["attention_head_dim"],
            layers=config["num_layers"],
            native_frames=_native_frames(config),
            compression=Compression(
                temporal=int(vae["temporal_compression_ratio"]) * together,
                spatial=_spatial(vae),
            ),
            train_timesteps=folder.config("scheduler").get("num_train_timesteps", 1000),
            text_tokens=config["max_text_seq_length"],
            start="channels" if image else "replaced",
            native=self.card(folder).native,
            learned_frames=_native_frames(config) if learned else None,
        )

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> CogVideoXBackbone:
        first, last = ["patch_embed.proj"], ("norm_final", "norm_out", "proj_out")
        if spec.learned_frames is not None:
            first.append("patch_embed.pos_embedding")
        prune = partial(keep_layers, layers=layers, first=first, last=last)
        transformer = load_transformer(folder, CogVideoXTransformer3DModel, place, prune)
        return CogVideoXBackbone(spec, transformer, layers)

    @override
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> CogVideoXDecoder | PairsDecoder:
        place, build = Placement(device, dtype), AutoencoderKLCogVideoX.from_config
        vae = load_vae(folder, build, place, without=("encoder", "quant_conv"))
        decoder = CogVideoXDecoder(vae)
        return decoder if _together(_transformer_config(folder)) == 1 else PairsDecoder(decoder)

    @override
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        tokens = _transformer_config(folder)["max_text_seq_length"]

        def encode(pipeline: Any, batch: list[str]) -> PromptStates:
            states, _ = pipeline.encode_prompt(
                batch,
                do_classifier_free_guidance=False,
                max_sequence_length=tokens,
                device=place.device,
            )
            return {"states": states}

        encoders = {"text_encoder": T5EncoderModel}
        return encode_with_pipeline(folder, prompts, CogVideoXPipeline, encoders, place, encode)

    @override
    def encode_video(
        self, folder: ModelFolder, frames: VideoFrames, device: torch.device
    ) -> Tensor:
        vae = with_defaults(AutoencoderKLCogVideoX, folder.config("vae"))
        encoder = CogVideoXEncoder.load(folder, device)
        latents = encoder.encode(frames) * float(vae["scaling_factor"])
        return latents if _together(_transformer_config(folder)) == 1 else paired(latents)

    @override
    def encode_given(
        self, folder: ModelFolder, spec: BackboneSpec, given: GivenFrames, place: Placement
    ) -> ConditioningFrames:
        start = super().encode_given(folder, spec, given, place)
        if spec.start != "channels":
            return start
        vae = with_defaults(AutoencoderKLCogVideoX, folder.config("vae"))
        seen = start.latents
        if vae["invert_scale_latents"]:  # as the model was trained
            seen = seen / vae["scaling_factor"] ** 2
        nothing = torch.zeros_like(seen[:, :, :1])  # nor is anything given later
        if _together(_transformer_config(folder)) == PAIR:
            seen = before_the_video(seen)
        return replace(start, channels=torch.cat([seen, nothing], dim=2))

    @override
    def blank_start(
        self, folder: ModelFolder, spec: BackboneSpec, height: int, width: int
    ) -> ConditioningFrames | None:
        if spec.start != "channels":
            return None
        latents = torch.empty(1, spec.channels, 1, height, width)
        return ConditioningFrames(latents=latents, channels=latents)

    @override
    def blank_prompts(self, folder: ModelFolder, spec: BackboneSpec) -> PromptStates:
        _, width = prompt_shape(folder)
        return {"states": torch.empty(1, spec.text_tokens, width)}


def _transformer_config(folder: ModelFolder) -> dict[str, Any]:
    """Return the transformer's configuration, or refuse the folder."""
    config = with_defaults(CogVideoXTransformer3DModel, folder.config("transformer"))
    frames = config["patch_size_t"]
    if frames not in (None, PAIR):
        raise ModelError(
            f"{folder.path} is CogVideoX that puts {frames} latent frames into one token "
            f"(patch_size_t); longtake runs those of one (CogVideoX-2b, CogVideoX-5b) and of "
            f"{PAIR} (CogVideoX1.5-5B)."
        )
    channels, further = config["out_channels"], config["in_channels"] - config["out_channels"]
    wanted = channels if folder.pipeline == _IMAGE else 0
    if further != wanted:
        raise ModelError(
            f"{folder.path} is a {folder.pipeline} whose transformer has {further} input channels "
            f"besides {channels} of latents; it needs {wanted}."
        )
    return config


def _spatial(vae: dict[str, Any]) -> int:
    return int(2 ** (len(vae["block_out_channels"]) - 1))


def _native_frames(config: dict[str, Any]) -> int:
    frames = (config["sample_frames"] - 1) // config["temporal_compression_ratio"] + 1
    return -(-int(frames) // _together(config))


def _together(config: dict[str, Any]) -> int:
    """Return how many of the VAE's latent frames are in one token."""
    return int(config["patch_size_t"] or 1)
