"""Tokenizers that lose what they are given, refused before a prompt is encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from longtake.errors import ModelError

_APART: Final = "q x z j"
"""Letters that no vocabulary has as one token, apart."""


def check_spaces(tokenizer: Any, place: Path) -> None:
    """Refuse a tokenizer for which words run into each other.

    Some versions of transformers rebuild a published tokenizer without its spaces, and every
    prompt of several words would be another one.

    Args:
        tokenizer: Of transformers.
        place: Where it was loaded from.

    Raises:
        ModelError: Text with spaces becomes the same tokens as text without, or comes back from
            its tokens without any.
    """
    tokens = _tokens(tokenizer, _APART)
    if getattr(tokenizer, "unk_token_id", None) in tokens:
        return  # a vocabulary without these letters says nothing
    together = _tokens(tokenizer, _APART.replace(" ", ""))
    if tokens == together or " " not in tokenizer.decode(tokens).strip():
        raise ModelError(
            f"the tokenizer in {place} loses spaces: {_APART!r} becomes the tokens {tokens}, which "
            f"are {tokenizer.decode(tokens)!r}; install the version of transformers that longtake "
            f"asks for (pip install --upgrade longtake)."
        )


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)
