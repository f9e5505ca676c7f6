"""Tiny HunyuanVideo 1.5: random weights, a pipeline folder on disk, or in memory."""

from __future__ import annotations

import copy
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from transformers import (
    ByT5Tokenizer,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from longtake.models import BackboneSpec, Compression, ModelFolder, PromptStates
from longtake.models.hunyuan_video15 import HunyuanVideo15Backbone
from longtake.strategies import Communicator, Denoising
from longtake.testing.tiny.base import (
    CHANNELS,
    LAYERS,
    TEXT_DIM,
    TOKENS,
    TinyCase,
    tiny_denoising,
    tiny_scheduler,
)
from longtake.testing.tiny.parts import (
    drop_layers,
    of_backbone,
    randomize,
    save_folder,
    t5_encoder,
    word_tokenizer,
)

GLYPH_DIM, GLYPHS = 6, 3
"""Width of the second text encoder, and its tokens per prompt."""

IMAGE_DIM, IMAGE_TOKENS = 5, 4
"""Width of the image encoder, and tokens that it makes of an image; without one there are none."""

_TEMPLATE_TOKENS = 108
"""Tokens before the prompt, which the pipeline cuts off."""
_WORDS = ["<pad>", "</s>", "<unk>", "red", "blue", "bird", "sea", "moves", "slow", "user"]


def tiny_hunyuan15_folder(
    path: Path, *, guider: Any = None, shard_size: str | None = None, seed: int = 0
) -> ModelFolder:
    """Save a random-weight ``HunyuanVideo15Pipeline`` as diffusers does, and open it.

    Args:
        path: Where to.
        guider: diffusers' guider; ``None`` for classifier-free guidance.
        shard_size: Largest weight file (``"20KB"``); ``None`` for one file per component.
        seed: Of the weights.
    """
    pipeline = HunyuanVideo15Pipeline(**_parts(guider, seed))
    return save_folder(pipeline, path, shard_size)


def tiny_hunyuan15_i2v_folder(
    path: Path, *, guider: Any = None, shard_size: str | None = None, seed: int = 0
) -> ModelFolder:
    """Save a random-weight ``HunyuanVideo15ImageToVideoPipeline``, as ``tiny_hunyuan15_folder``."""
    side = 16
    config = SiglipVisionConfig(
        hidden_size=IMAGE_DIM,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=side,
        patch_size=side // 2,
    )
    pipeline = HunyuanVideo15ImageToVideoPipeline(
        **_parts(guider, seed),
        image_encoder=randomize(SiglipVisionModel(config), seed),
        feature_extractor=SiglipImageProcessor(size={"height": side, "width": side}),
    )
    return save_folder(pipeline, path, shard_size)


def _parts(guider: Any, seed: int) -> dict[str, Any]:
    qwen = Qwen2_5_VLTextConfig(
        vocab_size=len(_WORDS),
        hidden_size=TEXT_DIM,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=1,
        num_key_value_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    )
    return {
        "text_encoder": randomize(Qwen2_5_VLTextModel(qwen), seed),
        "tokenizer": _tokenizer(),
        "transformer": tiny_hunyuan15_transformer(seed),
        "vae": tiny_hunyuan15_vae(seed),
        "scheduler": tiny_scheduler("FlowMatchEulerDiscreteScheduler"),
        "text_encoder_2": t5_encoder(384, GLYPH_DIM, seed),
        "tokenizer_2": ByT5Tokenizer(),
        "guider": guider or ClassifierFreeGuidance(guidance_scale=6.0),
    }


def tiny_hunyuan15_transformer(seed: int = 0) -> Any:
    """Return a ``HunyuanVideo15Transformer3DModel`` of random weights."""
    return copy.deepcopy(_transformer(seed))


@cache  # the projection of the glyphs has 4 million weights, whatever the configuration
def _transformer(seed: int) -> Any:
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=2 * CHANNELS + 1,
        out_channels=CHANNELS,
        num_attention_heads=3,
        attention_head_dim=8,
        num_layers=LAYERS,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=2,
        text_embed_dim=TEXT_DIM,
        text_embed_2_dim=GLYPH_DIM,
        image_embed_dim=IMAGE_DIM,
        rope_axes_dim=(4, 2, 2),
        task_type="t2v",
    )
    return randomize(transformer, seed)


def tiny_hunyuan15_vae(seed: int = 0, **changes: Any) -> Any:
    """Return a random ``AutoencoderKLHunyuanVideo15``: 16 times smaller, 4 times fewer frames."""
    config = {
        "latent_channels": CHANNELS,
        "block_out_channels": (8, 8, 16, 16, 16),
        "layers_per_block": 1,
    }
    return randomize(AutoencoderKLHunyuanVideo15(**config | changes), seed)


def tiny_hunyuan15_spec(*, image: bool = False) -> BackboneSpec:
    """Return the spec of ``tiny_hunyuan15_backbone``, from an image with ``image``."""
    return BackboneSpec(
        name="tiny HunyuanVideo 1.5",
        channels=CHANNELS,
        patch=(1, 2, 2),
        heads=3,
        head_dim=8,
        layers=LAYERS,
        native_frames=31,
        compression=Compression(temporal=4, spatial=16),
        text_tokens=TOKENS + GLYPHS + (IMAGE_TOKENS if image else 0),
        start="channels" if image else "replaced",
        native=("start",) if image else (),
        moves_keys=True,
    )


def tiny_hunyuan15_backbone(
    layers: Collection[int] = range(LAYERS), seed: int = 0, *, image: bool = False
) -> HunyuanVideo15Backbone:
    """Return a backbone that holds ``layers`` only; the others are gone, as after loading."""
    transformer = tiny_hunyuan15_transformer(seed)
    drop_layers(transformer.transformer_blocks, layers)
    return HunyuanVideo15Backbone(tiny_hunyuan15_spec(image=image), transformer, layers)


def tiny_hunyuan15_prompts(rows: int, seed: int = 0) -> PromptStates:
    """Return states of made-up prompts, each shorter than the one before; the first has glyphs."""
    generator = torch.Generator().manual_seed(seed)
    lengths, glyphs = TOKENS - 2 - torch.arange(rows), GLYPHS - 1 - 2 * torch.arange(rows)
    return {
        "states": torch.randn(rows, TOKENS, TEXT_DIM, generator=generator),
        "mask": torch.arange(TOKENS) < lengths[:, None],
        "glyphs": torch.randn(rows, GLYPHS, GLYPH_DIM, generator=generator),
        "glyphs_mask": torch.arange(GLYPHS) < glyphs[:, None],
    }


@torch.no_grad()
def tiny_hunyuan15_denoising(
    case: TinyCase,
    layers: Collection[int] = range(LAYERS),
    communicator: Communicator | None = None,
    prompts: PromptStates | None = None,
) -> Denoising:
    """Return the work of one rank that holds ``layers``. It can be run once.

    Args:
        case: What is denoised.
        layers: What the strategy asked for on this rank.
        communicator: The ranks of the run; ``None`` for one rank.
        prompts: One row per branch; ``None`` for made-up ones.
    """
    backbone = tiny_hunyuan15_backbone(layers, case.seed)
    work = tiny_denoising(case, layers, communicator)
    rows = prompts or tiny_hunyuan15_prompts(len(work.guidance.branches))
    return of_backbone(work, backbone, rows)


def _tokenizer() -> Any:
    before = f"'user ' * {_TEMPLATE_TOKENS}"
    template = f"{{{{ {before} + messages[-1].content + ' user' }}}}"
    return word_tokenizer(_WORDS, chat_template=template)
