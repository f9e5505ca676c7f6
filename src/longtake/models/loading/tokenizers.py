"""Tokenizers of a pipeline folder: loaded, and checked before any weight is fetched."""

from __future__ import annotations

from typing import Any, Final

import transformers
from transformers import AutoTokenizer

from longtake.errors import ModelError
from longtake.models.loading.folder import ModelFolder

_WORDS: Final = "a b c"
"""Three words for every tokenizer, also where they are unknown to it."""


def load_tokenizer(folder: ModelFolder, name: str) -> Any:
    """Load a tokenizer by what its files say.

    Code that comes with it is never run, and nothing is fetched. Not by the class that
    ``model_index.json`` names: HunyuanVideo's says ``LlamaTokenizerFast``, which drops the spaces
    of a Llama 3.

    Args:
        folder: The pipeline folder.
        name: Component (``tokenizer``, ``tokenizer_2``).

    Raises:
        ModelError: It is missing, or cannot be loaded.
    """
    path = folder.path / name
    if not path.is_dir():
        raise ModelError(f"{folder.path} has no {name} folder.")
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each kind of file has errors of its own, some of no class
        raise ModelError(f"the {name} in {folder.path} cannot be loaded: {error}") from error


def check_text(folder: ModelFolder) -> None:
    """Refuse a folder whose prompts could not be encoded, or not as they are written.

    Reads tokenizers and configurations, no weights.

    Raises:
        ModelError: Names the tokenizer or the text encoder and what is wrong with it.
    """
    for name in folder.components:
        if name.startswith("text_encoder"):
            _check_encoder(folder, name)
        if name.startswith("tokenizer"):
            tokenizer = load_tokenizer(folder, name)
            _check_spaces(folder, name, tokenizer)
            _check_padding(folder, name, tokenizer)
            _check_size(folder, name, tokenizer)


def _check_encoder(folder: ModelFolder, name: str) -> None:
    library, class_name = folder.index[name]
    if library != "transformers":
        return  # a plug-in's own
    encoder = getattr(transformers, class_name, None)
    if encoder is None:
        raise ModelError(
            f"{folder.path / 'model_index.json'} names the {name} {class_name}, which transformers "
            f"{transformers.__version__} does not have."
        )
    folder.config(name)  # or a refusal that names the file
    try:
        encoder.config_class.from_pretrained(folder.path / name)
    except Exception as error:  # a validation's own classes among others
        raise ModelError(
            f"the configuration of the {name} in {folder.path} is none of a {class_name}: {error}"
        ) from error


def _check_spaces(folder: ModelFolder, name: str, tokenizer: Any) -> None:
    """Refuse a tokenizer to which words are one: its files are of two different kinds."""
    apart, together = (
        tokenizer(text, add_special_tokens=False).input_ids
        for text in (_WORDS, _WORDS.replace(" ", ""))
    )
    found = tokenizer.decode(apart)
    if apart == together or len(found.split()) < len(_WORDS.split()):
        raise ModelError(
            f"the {name} in {folder.path} loses spaces: of {_WORDS!r} it keeps {found!r}. Its "
            f"files do not fit each other, or not transformers {transformers.__version__}: load "
            f"the folder again from where it was published."
        )


def _check_padding(folder: ModelFolder, name: str, tokenizer: Any) -> None:
    if tokenizer.pad_token is None:
        raise ModelError(
            f"the {name} in {folder.path} has no padding token (pad_token in "
            f"tokenizer_config.json), but prompts are padded to one length."
        )


def _check_size(folder: ModelFolder, name: str, tokenizer: Any) -> None:
    """Refuse a tokenizer of another encoder, whose tokens this one has no embeddings for."""
    encoder = name.replace("tokenizer", "text_encoder")
    if not folder.has(encoder):
        return
    known, tokens = folder.config(encoder).get("vocab_size"), len(tokenizer)
    if isinstance(known, int) and tokens > known:
        raise ModelError(
            f"the {name} in {folder.path} has {tokens} tokens, but the {encoder} knows {known} "
            f"(vocab_size in its config.json): they are not of the same model."
        )
