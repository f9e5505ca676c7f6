"""Prompts that are longer than an encoder's window: what is cut off is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longtake.models import ModelFolder
from longtake.models.loading.tokenizers import load_tokenizer
from longtake.models.truncation import telling
from longtake.testing.tiny.tokenizers import (
    save_byt5_tokenizer,
    save_clip_tokenizer,
    save_llama_tokenizer,
    save_qwen_tokenizer,
    save_t5_tokenizer,
)


def loaded(folder: Path, save: Any, said: list[str]) -> Any:
    save(folder / "tokenizer")
    return telling(
        load_tokenizer(ModelFolder(folder, {}), "tokenizer"), "text_encoder", said.append
    )


@pytest.mark.parametrize(
    "save",
    [
        lambda path: save_t5_tokenizer(path, 226),
        lambda path: save_t5_tokenizer(path, 512, fast=True),
        save_llama_tokenizer,
        save_qwen_tokenizer,
        save_clip_tokenizer,
        save_byt5_tokenizer,
    ],
    ids=["spiece.model", "T5", "Llama", "Qwen", "CLIP", "ByT5"],
)
def test_what_is_cut_off_is_said_by_every_kind_of_tokenizer(tmp_path: Path, save: Any) -> None:
    said: list[str] = []
    tokenizer = loaded(tmp_path, save, said)
    long = "a red circle moves fast " * 30 + "at the end of the sea"
    texts = ["a red circle", long, long]
    for kept in (texts, texts[1]):
        tokenizer(kept, padding="max_length", max_length=40, truncation=True, return_tensors="pt")
    (sentence,) = said
    count = len(tokenizer(long).input_ids)
    assert sentence.startswith(f"the text_encoder reads 40 tokens, but a prompt has {count}: ")
    assert "moves fast" in sentence
    said.clear()
    tokenizer(long, padding="longest", return_tensors="pt")
    tokenizer(texts[0], padding="max_length", max_length=40, truncation=True)
    assert not said


def test_the_words_are_those_that_have_no_effect(tmp_path: Path) -> None:
    """Two prompts that differ in them only are the same to the encoder."""
    said: list[str] = []
    tokenizer = loaded(tmp_path, lambda path: save_t5_tokenizer(path, 512, fast=True), said)
    kept = "a red circle moves fast"
    tokens = len(tokenizer(kept).input_ids)
    options = {"padding": "max_length", "max_length": tokens, "truncation": True}
    short, long = (tokenizer(text, **options).input_ids for text in (kept, f"{kept} over the sea"))
    assert short == long
    (sentence,) = said
    assert "this has no effect: 'over the sea'." in sentence


def test_chats_are_heard_too(tmp_path: Path) -> None:
    said: list[str] = []
    tokenizer = loaded(tmp_path, save_qwen_tokenizer, said)
    chat = [[{"role": "user", "content": "a red circle moves fast " * 30}]]
    tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, padding="max_length",
        max_length=40, truncation=True, return_tensors="pt",
    )  # fmt: skip
    assert len(said) == 1
