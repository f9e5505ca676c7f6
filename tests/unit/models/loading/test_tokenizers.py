"""Tokenizers and text encoders' configurations, checked before any weight is fetched."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, LlamaTokenizer

from longtake.errors import ModelError
from longtake.framework import Engine, GenerationConfig
from longtake.models import ModelFolder, open_folder
from longtake.models.loading.tokenizers import check_text, load_tokenizer
from longtake.strategies import SingleDevice
from longtake.testing.tiny.published import published_folder
from longtake.testing.tiny.tokenizers import (
    save_byt5_tokenizer,
    save_clip_tokenizer,
    save_llama_tokenizer,
    save_qwen_tokenizer,
    save_t5_tokenizer,
)

TEXT = "a golden fox  moves fast"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """Return a model whose tokenizer is a sentencepiece model."""
    return published_folder("CogVideoX-2b", tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def folder(whole: ModelFolder, tmp_path: Path) -> ModelFolder:
    """Return a copy that may be broken."""
    shutil.copytree(whole.path, tmp_path / "model")
    return open_folder(str(tmp_path / "model"))


def refusal(folder: ModelFolder) -> str:
    with pytest.raises(ModelError) as refused:
        check_text(folder)
    return str(refused.value)


def replaced(folder: ModelFolder, save: Any) -> None:
    """Put another tokenizer into a folder."""
    shutil.rmtree(folder.path / "tokenizer")
    save(folder.path / "tokenizer")


@pytest.mark.parametrize(
    ("save", "decoded"),
    [
        (lambda path: save_t5_tokenizer(path, 226), "a golden fox moves fast"),
        (lambda path: save_t5_tokenizer(path, 512, fast=True), "a golden fox moves fast"),
        (save_llama_tokenizer, TEXT),
        (save_qwen_tokenizer, TEXT),
        (save_clip_tokenizer, "a golden fox moves fast"),
        (save_byt5_tokenizer, TEXT),
    ],
    ids=["spiece.model", "T5", "Llama", "Qwen", "CLIP", "ByT5"],
)
def test_published_tokenizers_keep_words_apart(tmp_path: Path, save: Any, decoded: str) -> None:
    tokens = save(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(ModelFolder(tmp_path, {}), "tokenizer")
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == decoded
    assert max(ids) < tokens == len(tokenizer)


def test_a_sentencepiece_model_alone_is_all_there_is(whole: ModelFolder) -> None:
    names = {file.name for file in (whole.path / "tokenizer").iterdir()}
    assert "spiece.model" in names
    assert "tokenizer.json" not in names
    check_text(whole)


def test_an_environment_without_sentencepiece_is_told(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert refusal(folder).startswith(f"the tokenizer in {folder.path} cannot be loaded: ")


def test_a_tokenizer_that_loses_spaces_is_refused(folder: ModelFolder, tmp_path: Path) -> None:
    """A Llama 3's files read as an older Llama's, as some versions of transformers do."""
    save_llama_tokenizer(tmp_path / "llama")
    lossy = LlamaTokenizer.from_pretrained(tmp_path / "llama")
    replaced(folder, lossy.save_pretrained)
    config = folder.path / "tokenizer" / "tokenizer_config.json"
    content = json.loads(config.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(content))
    assert AutoTokenizer.from_pretrained(folder.path / "tokenizer").decode(
        lossy(TEXT, add_special_tokens=False).input_ids
    ) == TEXT.replace(" ", "")
    found = refusal(folder)
    assert f"the tokenizer in {folder.path} loses spaces: of 'a b c' it keeps 'abc'." in found


def test_the_tokenizer_of_another_model_is_refused(folder: ModelFolder) -> None:
    replaced(folder, save_llama_tokenizer)
    found = refusal(folder)
    assert re.search(r"has \d+ tokens, but the text_encoder knows \d+ \(vocab_size", found)


def test_a_tokenizer_that_cannot_pad_is_refused(folder: ModelFolder) -> None:
    replaced(folder, save_llama_tokenizer)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = folder.path / "tokenizer" / name
        content = json.loads(file.read_text())
        content.pop("pad_token")
        file.write_text(json.dumps(content))
    assert "has no padding token (pad_token in tokenizer_config.json)" in refusal(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("spiece.model", b"no model"),
        ("tokenizer.json", b'{"version": "1.0"}'),
        ("tokenizer_config.json", b"{"),
    ],
)
def test_broken_files_are_refused_in_one_sentence(
    folder: ModelFolder, file: str, content: bytes
) -> None:
    (folder.path / "tokenizer" / file).write_bytes(content)
    assert refusal(folder).startswith(f"the tokenizer in {folder.path} cannot be loaded: ")


def test_a_missing_tokenizer_is_named(folder: ModelFolder) -> None:
    shutil.rmtree(folder.path / "tokenizer")
    assert refusal(folder) == f"{folder.path} has no tokenizer folder."


def test_configurations_of_text_encoders_are_read(folder: ModelFolder) -> None:
    file = folder.path / "text_encoder" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"feed_forward_proj": "un-gated-gelu"}))
    assert "the configuration of the text_encoder in" in refusal(folder)
    assert "is none of a T5EncoderModel: " in refusal(folder)
    file.unlink()
    assert refusal(folder) == f"{file} is missing."
    index = folder.path / "model_index.json"
    unknown = folder.index | {"text_encoder": ["transformers", "T7EncoderModel"]}
    index.write_text(json.dumps(unknown))
    assert "names the text_encoder T7EncoderModel, which" in refusal(open_folder(str(folder.path)))


def test_nothing_is_fetched_for_a_folder_whose_prompts_cannot_be_read(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hub model, settings and tokenizers are here before weights are."""
    for file in folder.path.rglob("*.safetensors"):
        file.unlink()
    fetched: list[list[str]] = []

    def download(
        name: str, *, allow_patterns: list[str], dry_run: bool = False, **_: Any
    ) -> str | list[Any]:
        if dry_run:  # what there is, and how large
            return []
        fetched.append(allow_patterns)
        return str(folder.path)

    monkeypatch.setattr("longtake.models.loading.hub.snapshot_download", download)
    generation_config = GenerationConfig(pipeline="owner/model", dtype="float32")
    Engine(generation_config, SingleDevice())
    (folder.path / "tokenizer" / "spiece.model").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"the tokenizer in .* cannot be loaded"):
        Engine(generation_config, SingleDevice())
    assert fetched
    assert not any("safetensors" in pattern for patterns in fetched for pattern in patterns)
