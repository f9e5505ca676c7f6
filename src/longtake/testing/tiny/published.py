"""Pipeline folders as they are published, but small, and with random weights.

What decides how a folder is read is as in the published one: classes, switches, names of files,
weights in shards, and the kind of tokenizer. Channels of latents, tokens of prompts and the width
of a head are the published ones too; layers, heads and other widths are few.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import diffusers

from longtake.models import ModelFolder, open_folder
from longtake.testing.tiny.published_parts import (
    Parts,
    Tokens,
    cogvideox,
    hunyuan_video,
    hunyuan_video15,
    hunyuan_video15_i2v,
    hunyuan_video_i2v,
    kandinsky5,
    ltx,
    mochi,
    skyreels,
    wan,
    wan_i2v,
    wan_ti2v,
    wan_two_experts,
)
from longtake.testing.tiny.tokenizers import (
    save_byt5_tokenizer,
    save_clip_tokenizer,
    save_llama_tokenizer,
    save_qwen_tokenizer,
    save_t5_tokenizer,
)

_SHARD: Final = "2MB"
"""Largest weight file: transformers are in several, other parts in one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokenizer:
    """A tokenizer of a published folder: the class that the index names, and its writer."""

    named: str
    save: Callable[[Path], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """What a published folder is made of.

    Args:
        pipeline: diffusers class.
        tokenizers: By component.
        parts: Makes the other components and settings, of the tokenizers' numbers of tokens.
        written: Further entries of configuration files as published, by component.
    """

    pipeline: str
    tokenizers: Mapping[str, _Tokenizer]
    parts: Callable[[Tokens], Parts]
    written: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def published_names() -> list[str]:
    """Return the models that ``published_folder`` can make."""
    return list(_MODELS)


def published_folder(name: str, path: Path) -> ModelFolder:
    """Make a folder as a model is published, but for its size, and open it.

    Args:
        name: One of ``published_names``.
        path: Where to; must not exist.
    """
    model, saved = _MODELS[name], path.with_name(path.name + "-tokenizers")
    tokens = {part: kind.save(saved / part) for part, kind in model.tokenizers.items()}
    absent = dict.fromkeys(model.tokenizers)
    pipeline = getattr(diffusers, model.pipeline)(**absent, **model.parts(tokens))
    pipeline.save_pretrained(path, max_shard_size=_SHARD)
    for part in model.tokenizers:
        (saved / part).rename(path / part)
    shutil.rmtree(saved)
    named = {part: ["transformers", kind.named] for part, kind in model.tokenizers.items()}
    _add(path / "model_index.json", named)
    for part, entries in model.written.items():
        _add(path / part / "config.json", entries)
    return open_folder(str(path))


def _add(file: Path, entries: Mapping[str, Any]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | dict(entries), indent=2), encoding="utf-8")


def _sentencepiece_only(longest: int) -> dict[str, _Tokenizer]:
    """Return a T5 tokenizer that nothing but sentencepiece can read."""
    save = partial(save_t5_tokenizer, longest=longest)
    return {"tokenizer": _Tokenizer(named="T5Tokenizer", save=save)}


_UMT5 = {
    "tokenizer": _Tokenizer(
        named="T5TokenizerFast", save=partial(save_t5_tokenizer, longest=512, extra=300, fast=True)
    )
}
_LLAMA_AND_CLIP = {
    "tokenizer": _Tokenizer(named="LlamaTokenizerFast", save=save_llama_tokenizer),
    "tokenizer_2": _Tokenizer(named="CLIPTokenizer", save=save_clip_tokenizer),
}
_LLAVA_AND_CLIP = _LLAMA_AND_CLIP | {
    "tokenizer": _Tokenizer(
        named="LlamaTokenizerFast", save=partial(save_llama_tokenizer, pictures=True)
    )
}
_QWEN_AND_CLIP = {
    "tokenizer": _Tokenizer(named="Qwen2TokenizerFast", save=save_qwen_tokenizer),
    "tokenizer_2": _Tokenizer(named="CLIPTokenizer", save=save_clip_tokenizer),
}
_QWEN_AND_BYT5 = {
    "tokenizer": _Tokenizer(named="Qwen2TokenizerFast", save=save_qwen_tokenizer),
    "tokenizer_2": _Tokenizer(named="ByT5Tokenizer", save=save_byt5_tokenizer),
}

_COGVIDEOX15: Final = partial(
    cogvideox,
    rotary=True,
    patch_size_t=2,
    patch_bias=False,
    sample_frames=81,
    sample_height=300,
    sample_width=300,
)
_MODELS: Final = {
    "Wan2.1-T2V": _Model(pipeline="WanPipeline", tokenizers=_UMT5, parts=wan),
    "Wan2.2-T2V-A14B": _Model(pipeline="WanPipeline", tokenizers=_UMT5, parts=wan_two_experts),
    "Wan2.2-TI2V-5B": _Model(
        pipeline="WanPipeline",
        tokenizers=_UMT5,
        parts=wan_ti2v,
        written={"vae": {"clip_output": False}},
    ),
    "Wan2.1-I2V": _Model(pipeline="WanImageToVideoPipeline", tokenizers=_UMT5, parts=wan_i2v),
    "Wan2.1-FLF2V": _Model(
        pipeline="WanImageToVideoPipeline",
        tokenizers=_UMT5,
        parts=partial(wan_i2v, pos_embed_seq_len=2 * 257),
    ),
    "Wan2.2-I2V-A14B": _Model(
        pipeline="WanImageToVideoPipeline",
        tokenizers=_UMT5,
        parts=partial(wan_two_experts, boundary=0.9, in_channels=36),
    ),
    "SkyReels-V2-T2V": _Model(
        pipeline="SkyReelsV2Pipeline", tokenizers=_UMT5, parts=partial(skyreels, told_rate=False)
    ),
    "SkyReels-V2-I2V": _Model(
        pipeline="SkyReelsV2ImageToVideoPipeline",
        tokenizers=_UMT5,
        parts=partial(wan_i2v, kind="SkyReelsV2"),
    ),
    "SkyReels-V2-DF-1.3B": _Model(
        pipeline="SkyReelsV2DiffusionForcingPipeline",
        tokenizers=_UMT5,
        parts=partial(skyreels, told_rate=True),
    ),
    "SkyReels-V2-DF-14B": _Model(
        pipeline="SkyReelsV2DiffusionForcingPipeline",
        tokenizers=_UMT5,
        parts=partial(skyreels, told_rate=False),
    ),
    "HunyuanVideo": _Model(
        pipeline="HunyuanVideoPipeline", tokenizers=_LLAMA_AND_CLIP, parts=hunyuan_video
    ),
    "HunyuanVideo-I2V": _Model(
        pipeline="HunyuanVideoImageToVideoPipeline",
        tokenizers=_LLAVA_AND_CLIP,
        parts=partial(hunyuan_video_i2v, image_condition_type="token_replace"),
    ),
    "HunyuanVideo-I2V-33ch": _Model(
        pipeline="HunyuanVideoImageToVideoPipeline",
        tokenizers=_LLAVA_AND_CLIP,
        parts=partial(
            hunyuan_video_i2v,
            image_condition_type="latent_concat",
            in_channels=33,
            out_channels=16,
            guidance_embeds=False,
        ),
    ),
    "HunyuanVideo-1.5": _Model(
        pipeline="HunyuanVideo15Pipeline", tokenizers=_QWEN_AND_BYT5, parts=hunyuan_video15
    ),
    "HunyuanVideo-1.5-I2V": _Model(
        pipeline="HunyuanVideo15ImageToVideoPipeline",
        tokenizers=_QWEN_AND_BYT5,
        parts=hunyuan_video15_i2v,
    ),
    "Kandinsky-5.0-T2V-Lite": _Model(
        pipeline="Kandinsky5T2VPipeline", tokenizers=_QWEN_AND_CLIP, parts=kandinsky5
    ),
    "Kandinsky-5.0-T2V-Lite-10s": _Model(
        pipeline="Kandinsky5T2VPipeline",
        tokenizers=_QWEN_AND_CLIP,
        parts=partial(
            kandinsky5,
            attention_type="nabla",
            attention_P=0.9,
            attention_wT=3,
            attention_wH=1,
            attention_wW=1,
            attention_add_sta=True,
            attention_method="topcdf",
        ),
    ),
    "Kandinsky-5.0-I2V-Lite": _Model(
        pipeline="Kandinsky5I2VPipeline", tokenizers=_QWEN_AND_CLIP, parts=kandinsky5
    ),
    "CogVideoX-2b": _Model(
        pipeline="CogVideoXPipeline",
        tokenizers=_sentencepiece_only(226),
        parts=partial(cogvideox, rotary=False),
    ),
    "CogVideoX-5b": _Model(
        pipeline="CogVideoXPipeline",
        tokenizers=_sentencepiece_only(226),
        parts=partial(cogvideox, rotary=True),
    ),
    "CogVideoX1.5-5B": _Model(
        pipeline="CogVideoXPipeline",
        tokenizers=_sentencepiece_only(226),
        parts=_COGVIDEOX15,
    ),
    "CogVideoX1.5-5B-I2V": _Model(
        pipeline="CogVideoXImageToVideoPipeline",
        tokenizers=_sentencepiece_only(226),
        parts=partial(_COGVIDEOX15, in_channels=32, out_channels=16, ofs_embed_dim=64),
    ),
    "CogVideoX-5b-I2V": _Model(
        pipeline="CogVideoXImageToVideoPipeline",
        tokenizers=_sentencepiece_only(226),
        parts=partial(
            cogvideox,
            rotary=True,
            in_channels=32,
            out_channels=16,
            sample_height=8,
            sample_width=12,
            use_learned_positional_embeddings=True,
        ),
    ),
    **{
        f"LTX-Video-{version}": _Model(
            pipeline=pipeline,
            tokenizers=_sentencepiece_only(128),
            parts=partial(ltx, version=version),
        )
        for version, pipeline in (
            ("0.9.0", "LTXPipeline"),
            ("0.9.1", "LTXPipeline"),
            ("0.9.5", "LTXPipeline"),
            ("0.9.7", "LTXConditionPipeline"),
        )
    },
    "mochi-1-preview": _Model(
        pipeline="MochiPipeline", tokenizers=_sentencepiece_only(256), parts=mochi
    ),
}
