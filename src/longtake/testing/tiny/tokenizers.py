"""Tokenizer folders of the kinds that published models have, trained on a few sentences.

The files and their names are those of the published folders, which older versions of transformers
have written: a version that reads them otherwise than it writes its own is found out.
"""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Final

import sentencepiece
from diffusers import HunyuanVideo15Pipeline
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from sentencepiece import sentencepiece_model_pb2
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE, Unigram
from tokenizers.trainers import BpeTrainer
from transformers import ByT5Tokenizer

_COLORS: Final = ("red", "green", "blue", "golden")
_THINGS: Final = ("bird", "fox", "wave", "panda", "train", "river")
_DEEDS: Final = ("glides slowly", "moves fast", "jumps over the sea", "turns left")
_PLACES: Final = ("at night", "through a forest", "in warm light", "on a mountain street")

_BOS, _EOS, _PAD, _UNK = "<|begin_of_text|>", "<|end_of_text|>", "<pad>", "<unk>"
_LLAMA: Final = (_BOS, _EOS, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", _PAD, _UNK)
_QWEN: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CLIP: Final = ("<|startoftext|>", "<|endoftext|>")

_WORDS_AND_SIGNS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Llama 3 and Qwen 2 cut a text, for so many digits together."""

_SYSTEM: Final = str(
    inspect.signature(HunyuanVideo15Pipeline._get_mllm_prompt_embeds)
    .parameters["system_message"]
    .default
)
"""What the pipeline puts before a prompt; it cuts off as many tokens as the published model has."""
_CHAT: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_t5_tokenizer(folder: Path, longest: int, *, extra: int = 100, fast: bool = False) -> int:
    """Write a T5 tokenizer, a sentencepiece model of whole and partial words.

    Args:
        folder: Where to; it is made.
        longest: Tokens of the longest prompt.
        extra: Tokens beside the model's own (``<extra_id_0>``).
        fast: Whether there is a ``tokenizer.json`` as well, as beside UMT5; else ``spiece.model``
            is all there is, as beside the T5 of CogVideoX, LTX-Video and Mochi.

    Returns:
        The number of tokens.
    """
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(_sentencepiece())
    model = sentencepiece_model_pb2.ModelProto.FromString(_sentencepiece())
    pieces, names = len(model.pieces), [f"<extra_id_{index}>" for index in range(extra)]
    ids = {name: pieces + extra - 1 - index for index, name in enumerate(names)}
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    added = {index: _added(token) for index, token in enumerate(special.values())}
    added |= {ids[name]: _added(name, strip=True) for name in names}
    config = {
        "add_prefix_space": True,
        "added_tokens_decoder": added,
        "additional_special_tokens": names,
        "clean_up_tokenization_spaces": True,
        "extra_ids": extra,
        "legacy": True,
        "model_max_length": longest,
        "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
        **special,
    }
    _write(folder / "tokenizer_config.json", config)
    mapped = {name: _added(token, kind=None) for name, token in special.items()}
    _write(folder / "special_tokens_map.json", {"additional_special_tokens": names, **mapped})
    if fast:
        _unigram(model, [*reversed(names)]).save(str(folder / "tokenizer.json"))
    else:
        _write(folder / "added_tokens.json", ids)
    return pieces + extra


def save_llama_tokenizer(folder: Path, *, pictures: bool = False) -> int:
    """Write the byte-level tokenizer of a Llama 3, under the class name of older Llamas.

    Args:
        folder: Where to; it is made.
        pictures: Whether it is Llava's: the last token stands for a picture, the third last one is
            padding.

    Returns:
        The number of tokens.
    """
    names = (*_LLAMA, "<image>") if pictures else _LLAMA
    tokenizer = _byte_level(names, digits=3, template=_template(pictures))
    first = tokenizer.token_to_id(_BOS)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(f"{_BOS} $A", special_tokens=[(_BOS, first)]),
        ]
    )
    special = {"bos_token": _BOS, "eos_token": _EOS, "pad_token": _PAD, "unk_token": _UNK}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 8192,
        "padding_side": "right",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
        "use_default_system_prompt": False,
    }
    return _save_byte_level(folder, tokenizer, names, special, config)


def _template(pictures: bool) -> str:
    """Return what HunyuanVideo's pipelines put around a prompt."""
    if not pictures:
        return str(DEFAULT_PROMPT_TEMPLATE["template"])
    # Here, not above: where torchvision is not installed transformers warns of it on import.
    from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video_image2video as image2video

    return str(image2video.DEFAULT_PROMPT_TEMPLATE["template"])


def save_qwen_tokenizer(folder: Path) -> int:
    """Write the byte-level tokenizer of a Qwen 2.5, with its template of a conversation.

    Args:
        folder: Where to; it is made.

    Returns:
        The number of tokens.
    """
    tokenizer = _byte_level(_QWEN, digits=1, template=_SYSTEM)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    special = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "chat_template": _CHAT,
        "errors": "replace",
        "model_max_length": 131072,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    tokens = _save_byte_level(folder, tokenizer, _QWEN, special, config)
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    return tokens


def save_clip_tokenizer(folder: Path) -> int:
    """Write the tokenizer of a CLIP: letters and a few words, in lower case.

    Args:
        folder: Where to; it is made.

    Returns:
        The number of tokens.
    """
    folder.mkdir(parents=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("r", "e"), ("re", "d</w>"), ("s", "e"), ("se", "a</w>")]
    words = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), *_CLIP]
    _write(folder / "vocab.json", {word: index for index, word in enumerate(words)})
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    start, end = _CLIP
    special = {"bos_token": start, "eos_token": end, "pad_token": end, "unk_token": end}
    _write(folder / "special_tokens_map.json", special)
    config = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "tokenizer_class": "CLIPTokenizer",
    }
    _write(folder / "tokenizer_config.json", config | special)
    return len(words)


def save_byt5_tokenizer(folder: Path) -> int:
    """Write the tokenizer of a ByT5, whose tokens are bytes.

    Args:
        folder: Where to; it is made.

    Returns:
        The number of tokens.
    """
    tokenizer: Any = ByT5Tokenizer()
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def sentences() -> list[str]:
    """Return what the tokenizers are trained on: sentences of a few words."""
    made = product(_COLORS, _THINGS, _DEEDS, _PLACES)
    return [f"a {color} {thing} {deed} {place}" for color, thing, deed, place in made]


@cache
def _sentencepiece() -> bytes:
    """Return a unigram model with the special tokens of T5."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()),
        model_writer=model,
        vocab_size=120,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _unigram(model: Any, extra: Sequence[str]) -> Tokenizer:
    """Return a sentencepiece model as older versions of transformers have converted it."""
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    tokenizer = Tokenizer(Unigram([*pieces, *((name, 0.0) for name in extra)], unk_id=2))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    space: dict[str, Any] = {"replacement": "▁", "prepend_scheme": "always"}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**space)]
    )
    tokenizer.decoder = decoders.Metaspace(**space)
    tokenizer.post_processor = processors.TemplateProcessing(
        "$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece, _ in pieces[:3]])
    return tokenizer


def _byte_level(special: Iterable[str], *, digits: int, template: str) -> Tokenizer:
    tokenizer = Tokenizer(BPE(ignore_merges=True))
    cuts = Regex(_WORDS_AND_SIGNS % digits)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(cuts, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*sentences(), template], trainer)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    return tokenizer


def _save_byte_level(
    folder: Path,
    tokenizer: Tokenizer,
    names: Iterable[str],
    special: Mapping[str, str | None],
    config: dict[str, Any],
) -> int:
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {tokenizer.token_to_id(name): _added(name) for name in names}
    config = {"added_tokens_decoder": added, "clean_up_tokenization_spaces": False} | config
    _write(folder / "tokenizer_config.json", {**config, **special})
    _write(folder / "special_tokens_map.json", dict(special))
    return tokenizer.get_vocab_size()


def _added(token: str, *, strip: bool = False, kind: bool | None = True) -> dict[str, Any]:
    """Describe a token as ``tokenizer_config.json`` does."""
    names = ("lstrip", "rstrip")
    described = {"content": token, "normalized": False, "single_word": False}
    return described | dict.fromkeys(names, strip) | ({} if kind is None else {"special": kind})


def _write(file: Path, content: dict[Any, Any]) -> None:
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")
