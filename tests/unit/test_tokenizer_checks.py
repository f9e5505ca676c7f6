"""Tokenizers that lose spaces are refused, all others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from longtake.errors import ModelError
from longtake.models.tokenizer_checks import check_spaces
from longtake.testing.tiny import tiny_tokenizer


def byte_level(pre_tokenizer: Any, decoder: Any) -> Any:
    """Return a tokenizer of bytes, as Llama 3 and Qwen have it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_tokenizers_that_keep_spaces_pass(tmp_path: Path) -> None:
    right = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())
    for tokenizer in (right, ByT5Tokenizer(), tiny_tokenizer()):
        check_spaces(tokenizer, tmp_path)


def test_a_tokenizer_of_another_alphabet_loses_spaces(tmp_path: Path) -> None:
    # What some versions of transformers make of Llama 3's: sentencepiece's mark is no token of it.
    wrong = byte_level(pre_tokenizers.Metaspace(), decoders.Metaspace())
    with pytest.raises(ModelError, match=r"tokenizer in .* loses spaces: 'q x z j'"):
        check_spaces(wrong, tmp_path)
