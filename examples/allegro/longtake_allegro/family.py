"""Allegro family: reads folders of ``AllegroPipeline``, its text encoder and its VAE."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, final

import torch
from diffusers import AllegroPipeline, AllegroTransformer3DModel, AutoencoderKLAllegro
from torch import Tensor, nn
from transformers import T5EncoderModel
from typing_extensions import override

from longtake.api import (
    BackboneSpec,
    Compression,
    Defaults,
    ModelCard,
    ModelFamily,
    ModelFolder,
    OverlapDecoder,
    Placement,
    PromptStates,
    TimeTiles,
    encode_with_pipeline,
    load_module,
    register,
)
from longtake_allegro.backbone import AllegroBackbone

TOKENS = 512
"""Text tokens of a prompt."""


@final
@register("AllegroPipeline")
class AllegroFamily(ModelFamily):
    """Allegro: 88 frames at 15 frames per second, text outside self-attention, a VAE in tiles."""

    cards = (
        ModelCard(
            pipeline="AllegroPipeline",
            model="Allegro",
            licence="apache-2.0",
            examples=("rhymes-ai/Allegro",),
            decoder="overlap",
            defaults=Defaults(
                steps=100, guidance_scale=7.5, height=720, width=1280, frames=88, fps=15
            ),
        ),
    )
    layer_lists = ("transformer_blocks",)

    @override
    def spec(self, folder: ModelFolder) -> BackboneSpec:
        dit, vae = folder.config("transformer"), folder.config("vae")
        temporal = vae["temporal_compression_ratio"]
        spatial = 2 ** (len(vae["block_out_channels"]) - 1)
        return BackboneSpec(
            name="Allegro",
            channels=dit["in_channels"],
            patch=(dit["patch_size_t"], dit["patch_size"], dit["patch_size"]),
            heads=dit["num_attention_heads"],
            head_dim=dit["attention_head_dim"],
            layers=dit["num_layers"],
            native_frames=dit["sample_frames"],
            # Not causal: the first latent frame is as many video frames as every other one.
            compression=Compression(temporal=temporal, spatial=spatial, first=temporal),
        )

    @override
    def load_backbone(
        self, folder: ModelFolder, spec: BackboneSpec, layers: Collection[int], place: Placement
    ) -> AllegroBackbone:
        def prune(dit: Any) -> None:
            for index in set(range(spec.layers)).difference(layers):
                dit.transformer_blocks[index] = nn.Identity()

        build = AllegroTransformer3DModel.from_config
        dit = load_module(folder, "transformer", build, place, prune=prune)
        return AllegroBackbone(spec, dit, layers)

    @override
    def load_decoder(
        self, folder: ModelFolder, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> OverlapDecoder:
        def prune(vae: Any) -> None:
            vae.encoder = vae.quant_conv = nn.Identity()

        place = Placement(device, dtype)
        vae = load_module(folder, "vae", AutoencoderKLAllegro.from_config, place, prune=prune)
        return allegro_decoder(vae)

    @override
    def encode_text(
        self, folder: ModelFolder, prompts: Sequence[str], place: Placement
    ) -> PromptStates:
        def encode(pipeline: Any, some: list[str]) -> PromptStates:
            states, mask, _, _ = pipeline.encode_prompt(some, do_classifier_free_guidance=False)
            return {"states": states, "mask": mask}

        encoders = {"text_encoder": T5EncoderModel}
        return encode_with_pipeline(folder, prompts, AllegroPipeline, encoders, place, encode)

    @override
    def blank_prompts(self, folder: ModelFolder, spec: BackboneSpec) -> PromptStates:
        width = folder.config("transformer")["caption_channels"]
        mask = torch.ones(1, TOKENS, dtype=torch.long)
        return {"states": torch.empty(1, TOKENS, width), "mask": mask}


def allegro_decoder(vae: Any) -> OverlapDecoder:
    """Return diffusers' ``AutoencoderKLAllegro`` as a stream: its own tiles in time.

    In the plane it decodes whole pictures; ``model.vae_tile`` is there for large ones.
    """
    temporal = vae.config.temporal_compression_ratio
    tiles = TimeTiles(
        frames=vae.kernel[0] // temporal,
        stride=vae.stride[0] // temporal,
        temporal=temporal,
        blend=vae.kernel[0] - vae.stride[0],
        causal=False,
    )

    def decode_tile(latents: Tensor, first: bool) -> Tensor:
        frames = (latents / vae.config.scaling_factor)[0].transpose(0, 1)
        video: Tensor = vae.decoder(vae.post_quant_conv(frames).transpose(0, 1)[None])
        return video

    return OverlapDecoder(tiles, decode_tile, vae.post_quant_conv.weight)
