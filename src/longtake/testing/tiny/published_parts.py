"""Parts of published pipelines, with few layers and heads and random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import diffusers
import transformers

from longtake.testing.tiny.ltx import (
    CONDITIONED,
    SINCE_095,
    randomize_ltx_vae,
    tiny_ltx_condition_scheduler,
    tiny_ltx_scheduler,
)
from longtake.testing.tiny.parts import randomize, t5_encoder

Tokens = Mapping[str, int]
"""How many tokens each tokenizer has, by component."""
Parts = dict[str, Any]
"""Components of a pipeline, and settings of its constructor."""

_WIDTH: Final = 32
"""Of the text encoders."""
_LAYERS: Final = {"num_attention_heads": 2, "num_layers": 2}


def t5(tokens: int, kind: str = "T5", width: int = _WIDTH) -> Any:
    """Return the encoder of a T5 1.1 or UMT5."""
    return t5_encoder(
        tokens,
        width,
        1,
        kind,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )


def _wan_transformer(kind: str = "Wan", seed: int = 0, **changes: Any) -> Any:
    config = {**_LAYERS, "ffn_dim": 64, "text_dim": _WIDTH, **changes}
    return randomize(getattr(diffusers, f"{kind}Transformer3DModel")(**config), seed)


def _wan_vae(**changes: Any) -> Any:
    config: dict[str, Any] = {"base_dim": 4, "num_res_blocks": 1, **changes}
    return randomize(diffusers.AutoencoderKLWan(**config), 2)


def _wan_scheduler(shift: float) -> Any:
    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


def wan(tokens: Tokens, shift: float = 3.0, **changes: Any) -> Parts:
    """Return Wan 2.1's; ``changes`` are further parts, or other ones."""
    parts = {
        "text_encoder": t5(tokens["tokenizer"], "UMT5"),
        "vae": _wan_vae(),
        "scheduler": _wan_scheduler(shift),
    }
    return (
        parts | ({} if "transformer" in changes else {"transformer": _wan_transformer()}) | changes
    )


def wan_ti2v(tokens: Tokens) -> Parts:
    """Return Wan 2.2 TI2V's: a timestep per frame, and a VAE of 48 channels."""
    vae = _wan_vae(
        decoder_base_dim=8,
        z_dim=48,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=[0.01 * index - 0.2 for index in range(48)],
        latents_std=[0.4 + 0.01 * index for index in range(48)],
    )
    transformer = _wan_transformer(in_channels=48, out_channels=48)
    return wan(tokens, 5.0, transformer=transformer, vae=vae, expand_timesteps=True)


def wan_two_experts(tokens: Tokens, boundary: float = 0.875, **changes: Any) -> Parts:
    """Return Wan 2.2 A14B's; ``changes`` go to both transformers."""
    experts = {
        "transformer": _wan_transformer(**changes),
        "transformer_2": _wan_transformer(seed=7, **changes),
    }
    return wan(tokens, boundary_ratio=boundary, **experts)


def wan_i2v(tokens: Tokens, kind: str = "Wan", **changes: Any) -> Parts:
    """Return Wan 2.1 I2V's: channels for given frames, and cross-attention to CLIP's image.

    Args:
        tokens: Of the tokenizer.
        kind: ``Wan`` or ``SkyReelsV2``, whose transformer it is.
        changes: To the transformer's configuration.
    """
    clip = transformers.CLIPVisionConfig(
        hidden_size=_WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=224,
        patch_size=14,
        projection_dim=_WIDTH,
        hidden_act="gelu",
    )
    width = 2 * 128
    channels = {"in_channels": 36, "image_dim": _WIDTH, "added_kv_proj_dim": width}
    return wan(
        tokens,
        3.0 if kind == "Wan" else 1.0,
        transformer=_wan_transformer(kind, **channels | changes),
        image_encoder=randomize(transformers.CLIPVisionModelWithProjection(clip), 4),
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}
        ),
    )


def skyreels(tokens: Tokens, *, told_rate: bool) -> Parts:
    """Return SkyReels-V2's; 1.3B of diffusion forcing is told the frame rate."""
    transformer = _wan_transformer("SkyReelsV2", inject_sample_info=told_rate)
    return wan(tokens, 1.0, transformer=transformer)


def hunyuan_video(tokens: Tokens, **changes: Any) -> Parts:
    """Return HunyuanVideo's: Llama and CLIP, and a guidance scale that is embedded.

    Args:
        tokens: Of the tokenizers.
        changes: To the transformer's configuration.
    """
    llama = transformers.LlamaConfig(
        vocab_size=tokens["tokenizer"],
        hidden_size=_WIDTH,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
    )
    clip = transformers.CLIPTextConfig(
        vocab_size=tokens["tokenizer_2"],
        hidden_size=_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokens["tokenizer_2"] - 2,
        eos_token_id=tokens["tokenizer_2"] - 1,
    )
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        **_LAYERS,
        num_single_layers=2,
        num_refiner_layers=2,
        text_embed_dim=_WIDTH,
        pooled_projection_dim=_WIDTH,
        **changes,
    )
    vae = diffusers.AutoencoderKLHunyuanVideo(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    return {
        "text_encoder": randomize(transformers.LlamaModel(llama), 1),
        "text_encoder_2": randomize(transformers.CLIPTextModel(clip), 3),
        "transformer": randomize(transformer, 0),
        "vae": randomize(vae, 2),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def hunyuan_video_i2v(tokens: Tokens, **changes: Any) -> Parts:
    """Return HunyuanVideo I2V's: Llava in the place of Llama; ``changes`` as above."""
    parts, size = hunyuan_video(tokens, **changes), 336
    eyes = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=size,
        patch_size=14,
    )
    llava = transformers.LlavaConfig(
        vision_config=eyes,
        text_config=parts["text_encoder"].config,
        image_token_index=tokens["tokenizer"] - 1,
        pad_token_id=tokens["tokenizer"] - 3,
    )
    return parts | {
        "text_encoder": randomize(transformers.LlavaForConditionalGeneration(llava), 1),
        "image_processor": transformers.CLIPImageProcessor(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        ),
    }


def hunyuan_video15(tokens: Tokens) -> Parts:
    """Return HunyuanVideo 1.5's: Qwen and ByT5, and a guider."""
    qwen = transformers.Qwen2_5_VLTextConfig(
        vocab_size=tokens["tokenizer"],
        hidden_size=_WIDTH,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    )
    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        **_LAYERS,
        text_embed_dim=_WIDTH,
        text_embed_2_dim=_WIDTH,
        image_embed_dim=16,
        task_type="t2v",
    )
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        block_out_channels=(16, 16, 32, 64, 64), layers_per_block=1
    )
    return {
        "text_encoder": randomize(transformers.Qwen2_5_VLTextModel(qwen), 1),
        "text_encoder_2": t5(tokens["tokenizer_2"]),
        "transformer": randomize(transformer, 0),
        "vae": randomize(vae, 2),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
        "guider": diffusers.ClassifierFreeGuidance(guidance_scale=6.0),
    }


def hunyuan_video15_i2v(tokens: Tokens) -> Parts:
    """Return HunyuanVideo 1.5 I2V's: SigLIP sees the image."""
    siglip = transformers.SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=384,
        patch_size=14,
    )
    size = {"height": 384, "width": 384}
    return hunyuan_video15(tokens) | {
        "image_encoder": randomize(transformers.SiglipVisionModel(siglip), 4),
        "feature_extractor": transformers.SiglipImageProcessor(size=size),
    }


def kandinsky5(tokens: Tokens, **changes: Any) -> Parts:
    """Return Kandinsky 5 Lite's: Qwen and CLIP, and HunyuanVideo's VAE.

    Args:
        tokens: Of the tokenizers.
        changes: To the transformer's configuration.
    """
    qwen = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": tokens["tokenizer"],
            "hidden_size": _WIDTH,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
            "out_hidden_size": _WIDTH,
        },
    )  # fmt: skip
    hunyuan = hunyuan_video({**tokens, "tokenizer": tokens["tokenizer"]})
    transformer = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=16,
        out_visual_dim=16,
        in_text_dim=_WIDTH,
        in_text_dim2=_WIDTH,
        time_dim=16,
        model_dim=32,
        ff_dim=64,
        num_text_blocks=2,
        num_visual_blocks=3,
        axes_dims=(4, 6, 6),
        visual_cond=True,
        **changes,
    )
    return {
        "text_encoder": randomize(transformers.Qwen2_5_VLForConditionalGeneration(qwen), 1),
        "text_encoder_2": hunyuan["text_encoder_2"],
        "transformer": randomize(transformer, 0),
        "vae": hunyuan["vae"],
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
    }


def cogvideox(tokens: Tokens, *, rotary: bool, **changes: Any) -> Parts:
    """Return CogVideoX-5B's (with rotary positions) or 2B's (without).

    Args:
        tokens: Of the tokenizer.
        rotary: Which.
        changes: To the transformer's configuration.
    """
    scheduler = diffusers.CogVideoXDDIMScheduler(
        beta_end=0.012,
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0 if rotary else 3.0,
        timestep_spacing="trailing",
    )
    transformer = diffusers.CogVideoXTransformer3DModel(
        **_LAYERS,
        text_embed_dim=_WIDTH,
        time_embed_dim=64,
        use_rotary_positional_embeddings=rotary,
        **changes,
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.7 if rotary else 1.15258426,
    )
    return {
        "text_encoder": t5(tokens["tokenizer"]),
        "transformer": randomize(transformer, 0),
        "vae": randomize(vae, 2),
        "scheduler": scheduler,
    }


def ltx(tokens: Tokens, version: str) -> Parts:
    """Return LTX-Video's.

    Args:
        tokens: Of the tokenizer.
        version: ``0.9.0``, ``0.9.1``, ``0.9.5`` or ``0.9.7``.
    """
    width = 2 * 64
    transformer = diffusers.LTXVideoTransformer3DModel(
        **_LAYERS, cross_attention_dim=width, caption_channels=_WIDTH
    )
    scheduler = tiny_ltx_scheduler()
    if version in ("0.9.5", "0.9.7"):
        scheduler = tiny_ltx_condition_scheduler()
    return {
        "text_encoder": t5(tokens["tokenizer"]),
        "transformer": randomize(transformer, 0),
        "vae": _ltx_vae(version),
        "scheduler": scheduler,
    }


def _ltx_vae(version: str) -> Any:
    plain = {
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
    }
    changes = {"0.9.0": {}, "0.9.1": CONDITIONED}.get(version, CONDITIONED | SINCE_095)
    return randomize_ltx_vae(diffusers.AutoencoderKLLTXVideo(**plain | changes), 2)


def mochi(tokens: Tokens) -> Parts:
    """Return Mochi 1's."""
    transformer = diffusers.MochiTransformer3DModel(
        **_LAYERS, pooled_projection_dim=64, text_embed_dim=_WIDTH
    )
    vae = diffusers.AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    return {
        "text_encoder": t5(tokens["tokenizer"]),
        "transformer": randomize(transformer, 0),
        "vae": randomize(vae, 2),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        "force_zeros_for_empty_prompt": True,
    }
